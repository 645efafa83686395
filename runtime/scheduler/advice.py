"""Advice policies: what workers are told of the future of the contexts that they hold.

A program tells when a context is taken again, and a tool how long it takes: so what is going to be used
outlives, in a worker's cache, what nobody takes any more. Advice travels with work, as what is cached is
evicted to make room for work only; what is fulfilled or has expired by then is not sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, Protocol

from weft.graph.ir import Value

from .actions import Keep
from .engines import WorkerState
from .patience import Patience
from .primitive import Role
from .state import DONE, WAITING, LiveNode, LiveRun

__all__ = ["ADVICE", "Advice", "Liveness", "NextUse", "Silence"]

_KNOWN_S: Final = 60.0  # that a context is kept for what is known to follow, which may have to queue


class Advice(Protocol):
    """What is said of contexts."""

    def made(self, live: LiveNode, consumers: Iterable[LiveNode], now: float) -> None:
        """A context has been made; of those who take it, or its text, the ready ones have been started."""
        ...

    def called(self, tool: LiveNode, now: float) -> None:
        """A tool begins."""
        ...

    def taken(self, live: LiveNode) -> None:
        """A primitive is handed out that continues a context."""
        ...

    def released(self, makers: Sequence[LiveNode]) -> tuple[Value, ...]:
        """Contexts are released, as nobody in the run takes them any more; which of them are dead."""
        ...

    def collect(self, worker: WorkerState, now: float) -> tuple[Keep, ...]:
        """What there is to say to a worker, once."""
        ...

    def forget(self, run: LiveRun) -> None:
        """A run is over."""
        ...

    def lose(self, worker: WorkerState) -> None:
        """A worker is gone."""
        ...


class Silence:
    """Nobody is told anything."""

    def __init__(self, patience: Patience) -> None:
        pass

    def made(self, live: LiveNode, consumers: Iterable[LiveNode], now: float) -> None:
        """It does not matter."""

    def called(self, tool: LiveNode, now: float) -> None:
        """It does not matter."""

    def taken(self, live: LiveNode) -> None:
        """It does not matter."""

    def released(self, makers: Sequence[LiveNode]) -> tuple[Value, ...]:
        """Nobody says so."""
        return ()

    def collect(self, worker: WorkerState, now: float) -> tuple[Keep, ...]:
        """Nothing."""
        return ()

    def forget(self, run: LiveRun) -> None:
        """It does not matter."""

    def lose(self, worker: WorkerState) -> None:
        """It does not matter."""


class Liveness(Silence):
    """What the graph and the tools so far say: contexts that wait are kept, those that nobody takes go first.

    A context waits for a tool for as long as nine of ten of its calls take (Continuum, arXiv:2511.02230, in
    short), and a minute for what its graph says will continue it (KVFlow, arXiv:2507.07400). What nobody
    takes any more goes first if its text has stayed within the run: a client that has seen it may ask more.
    """

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._pending: dict[WorkerState, dict[str, dict[int, Keep]]] = {}  # by run and node

    def made(self, live: LiveNode, consumers: Iterable[LiveNode], now: float) -> None:
        """Keep it for those who are known to take it later."""
        number = live.number
        for consumer in consumers:
            if consumer.primitive.context == number and consumer.phase is WAITING:
                self._say(live, now + _KNOWN_S)
                return

    def called(self, tool: LiveNode, now: float) -> None:
        """Keep the contexts whose texts have led to the call; of programs that do not say, the latest."""
        run, makers = tool.run, list(_makers(tool))
        if not makers and run.grows and run.latest is not None and run.latest.claim:
            makers = [run.latest]
        if makers:
            expires = now + self._patience.seconds(tool.primitive.key.model)
            begins = self._begins(tool, now)
            for maker in makers:
                self._say(maker, expires, begins)

    def taken(self, live: LiveNode) -> None:
        """There is nothing to wait for any more."""
        context = live.primitive.context
        if context is not None:
            self._unsay(live.run.nodes[context])

    def released(self, makers: Sequence[LiveNode]) -> tuple[Value, ...]:
        """Those whose texts have been taken within the run, unless another of its prompts begins alike."""
        for maker in makers:
            self._unsay(maker)
        return tuple(Value(m.number) for m in makers if m.read and not m.run.expects(m))

    def collect(self, worker: WorkerState, now: float) -> tuple[Keep, ...]:
        """What has not expired."""
        runs = self._pending.pop(worker, None)
        if runs is None:
            return ()
        return tuple(keep for keeps in runs.values() for keep in keeps.values() if keep.expires > now)

    def forget(self, run: LiveRun) -> None:
        """Nothing is to be said of it."""
        for engine in run.holdings:
            runs = self._pending.get(engine.worker)
            if runs is not None:
                runs.pop(run.id, None)

    def lose(self, worker: WorkerState) -> None:
        """Nothing is to be said to it."""
        self._pending.pop(worker, None)

    def _begins(self, tool: LiveNode, now: float) -> float:
        """When a tool may end at the earliest, as far as that is said; 0: at any time."""
        return 0.0

    def _say(self, maker: LiveNode, expires: float, begins: float = 0.0) -> None:
        engine, run, node = maker.engine, maker.run.id, maker.number
        if engine is not None and engine.worker.alive:
            maker.advised = True
            keep = Keep(run, node, expires, begins)
            self._pending.setdefault(engine.worker, {}).setdefault(run, {})[node] = keep

    def _unsay(self, maker: LiveNode) -> None:
        if not maker.advised or maker.engine is None:
            return
        runs = self._pending.get(maker.engine.worker)
        keeps = runs.get(maker.run.id) if runs else None
        if keeps:
            keeps.pop(maker.number, None)


class NextUse(Liveness):
    """Besides, workers are told when a context that waits for a tool is wanted at the earliest.

    Until then it goes before those that may be wanted at any moment, and afterwards it comes back if the
    host has it (prefetching: KVFlow, by the times of tools instead of steps). Nine of ten calls take longer;
    of tools whose times vary much that is not said.
    """

    def _begins(self, tool: LiveNode, now: float) -> float:
        seconds = self._patience.earliest(tool.primitive.key.model)
        return now + seconds if seconds else 0.0


def _makers(live: LiveNode) -> Iterator[LiveNode]:
    """The contexts that engines have made of which a node takes a text, directly or by way of the host."""
    for number in live.primitive.producers:
        maker = live.run.nodes[number]
        if maker.primitive.makes_context:
            if maker.claim and maker.phase is DONE:
                yield maker
        elif maker.primitive.role is Role.HOST:
            yield from _makers(maker)


ADVICE: Final[Mapping[str, Callable[[Patience], Advice]]] = {
    "none": Silence,
    "liveness": Liveness,
    "next_use": NextUse,
}
