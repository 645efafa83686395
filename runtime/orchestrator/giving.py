"""What runs are given that nobody is asked for: results of equal work, and what is computed here at once.

A result that one run waits for another to compute is handed on to it as soon as it is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

from weft.graph.evaluate import evaluate
from weft.graph.ir import Node, Value
from weft.graph.values import Datum
from weft.runtime.scheduler.prefixes import Content

from .contents import content_of
from .run import Run
from .shared_results import Asker
from .timer import now

__all__ = ["Giver"]


class Giver:
    """Gives live runs what is there for them.

    `guarded` does what may turn out to be impossible, for a node; `stir` lets a run, if it is not over, go on
    with what has been done for a node of it. `most`: characters of a value that is computed here.
    """

    def __init__(
        self,
        runs: Mapping[str, Run],
        guarded: Callable[[Run, int, Callable[[], None]], None],
        stir: Callable[[str, int], None],
        *,
        most: int,
    ) -> None:
        self._runs = runs
        self._guarded = guarded
        self._stir = stir
        self._most = most

    def found(self, run: Run) -> dict[Value, Content | None]:
        """What nobody need be asked for after what has become known, and the gates that open then."""
        known: dict[Value, Content | None] = {}
        found, due = run.reuse.found(), run.own.take()
        while (found or due) and run.id in self._runs:
            for number, results in found.items():
                known |= self._given(run, number, results, reused=True)
            for number in due:
                if number in run.pending:
                    known |= self._computed(run, number)
            found, due = run.reuse.found(), run.own.take()
        known.update(dict.fromkeys(run.reuse.opened()))
        return known

    def _computed(self, run: Run, number: int) -> dict[Value, Content | None]:
        """What the orchestrator computes itself at once, so that the scheduler need not ask for it."""
        try:
            results = self.compute(run, run.node(number))
        except Exception:
            return {}  # then the scheduler asks for it, and it fails as every primitive does
        return self._given(run, number, results, reused=False)

    def compute(self, run: Run, node: Node) -> tuple[Datum, ...]:
        """The results of a node without an engine. Raises EvaluationError."""
        return evaluate(node.op, run.operands(node), self._most)

    def _given(
        self, run: Run, number: int, results: tuple[Datum, ...], *, reused: bool
    ) -> dict[Value, Content | None]:
        self._guarded(run, number, partial(run.given, run.node(number), results, now(), reused=reused))
        return {Value(number, output): content_of(datum) for output, datum in enumerate(results)}

    def hand_on(self, run: Run, number: int, results: tuple[Datum, ...]) -> None:
        """Keep the results of a node, and give them to the runs that wait for them."""
        kept, askers = run.reuse.done(number, results)
        for asker in askers:
            other = self._runs.get(asker.run)
            if other is not None:
                other.reuse.hand(asker.node, kept)
                self._stir(other.id, asker.node)

    def ask_again(self, askers: Iterable[Asker]) -> None:
        """What these waited for others to compute, they compute themselves."""
        for asker in askers:
            other = self._runs.get(asker.run)
            if other is not None:
                other.reuse.ask_again(asker.node)
                self._stir(other.id, asker.node)
