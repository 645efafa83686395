"""The passes, one file each, and the order in which they run."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Final

from ..ir import Graph, Value
from .base import Context, Pass, PassReport, Rewrite
from .dedupe import Dedupe
from .lower import Lower
from .pipeline_decode import PipelineDecode
from .prune import Prune
from .split_prefill import SplitPrefill
from .stage import Stages

__all__ = ["GUESS", "OPTIONAL", "Context", "Pass", "PassReport", "Pipeline", "Rewrite"]

_PASSES: Final[tuple[Callable[[Context], Pass], ...]] = (
    Lower,
    PipelineDecode,
    SplitPrefill,
    Stages,
    Dedupe,
    lambda _: Prune(),
)

GUESS: Final = "guess"
"""What goes by the name of a pass, too: folds that guess, see `weft.graph.guessing`."""

OPTIONAL: Final = ("pipeline_decode", "split_prefill", "stage", "dedupe", "prune", GUESS)
"""What can be switched off by name, in its order; the outputs stay the same."""


class Pipeline:
    """The passes of one run; some remember what earlier increments held.

    Raises ValueError when `disabled` names a pass that cannot be switched off.
    """

    def __init__(self, context: Context, disabled: Collection[str] = ()) -> None:
        unknown = [name for name in disabled if name not in OPTIONAL]
        if unknown:
            raise ValueError(f"there is no optional pass {unknown[0]!r}; known: {', '.join(OPTIONAL)}")
        passes = [make(context) for make in _PASSES]
        self._passes = [step for step in passes if step.name not in disabled]

    def __contains__(self, name: str) -> bool:
        """Whether a pass is switched on."""
        return any(step.name == name for step in self._passes)

    def fork(self, context: Context) -> Pipeline:
        """The same passes with the same memory, for another run."""
        other = Pipeline.__new__(Pipeline)
        other._passes = [step.fork(context) for step in self._passes]
        return other

    def run(
        self, graph: Graph, *, closed: bool, staged: bool = False, settled: bool = False
    ) -> tuple[Graph, dict[Value, Value], list[PassReport]]:
        """The increment after all passes, the values that were replaced, and what each pass did.

        Only a closed increment, of which only the outputs are taken, is pruned; what is `staged` already is
        not cut into stages. What is `settled`, which is computed at once and by no engine, is pruned and no
        more. Raises GraphError.
        """
        aliases: dict[Value, Value] = {}
        reports: list[PassReport] = []
        for step in self._passes:
            if isinstance(step, Prune):
                left_out = not closed
            else:
                left_out = settled or (staged and isinstance(step, Stages))
            if left_out:
                continue
            began = time.perf_counter()
            done = step(graph)
            graph = done.graph
            aliases.update(done.aliases)
            took_ms = (time.perf_counter() - began) * 1e3
            reports.append(PassReport(step.name, done.summary, graph, done.changes, done.refusals, took_ms))
        return graph, aliases, reports
