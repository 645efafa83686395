"""What the scheduler remembers of runs: their nodes, and who takes whose results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import NamedTuple

from weft.graph.analyses.forecast import Forecast
from weft.graph.ir import Node

from .charges import Charge, Claim
from .directory import Found
from .engines import EngineState, Pool
from .prefixes import Boundary, Content
from .primitive import EngineKey, Primitive
from .transfer import Move

__all__ = [
    "DONE",
    "QUEUED",
    "RETRYING",
    "RUNNING",
    "SHELVED",
    "WAITING",
    "Chain",
    "Holding",
    "LiveNode",
    "LiveRun",
    "Phase",
]


class Phase(Enum):
    """Where a node stands."""

    WAITING = auto()  # for operands
    QUEUED = auto()  # for a worker with room
    RUNNING = auto()  # handed out; in a fragment perhaps still without all its operands
    RETRYING = auto()  # for the end of a back-off
    SHELVED = auto()  # for somebody who needs it
    DONE = auto()


# By names of their own: looking up a member of an enum takes several times as long, twenty times a primitive.
WAITING, QUEUED, RUNNING, RETRYING, SHELVED, DONE = Phase


class Chain(NamedTuple):
    """Where a prompt begins to differ from the context that it continues, and its prefixes from there on."""

    base: Boundary
    prefixes: Sequence[Boundary]  # shortest first


@dataclass(slots=True)
class Holding:
    """What an engine is reckoned to hold for a run."""

    claims: dict[Claim, None] = field(default_factory=dict)  # none of what it continues no more and has lost
    expired: bool = False  # whether it has lost its place
    used: bool = False  # in the present turn


@dataclass(eq=False, slots=True)
class LiveNode:
    """A node of a live run."""

    primitive: Primitive
    run: LiveRun
    number: int  # the node's id
    work_ms: float  # that it will take of engines, if it is not a tool
    takers: dict[int, LiveNode] | None = None  # that wait for a result of it
    waiting: int = 0  # producers of operands that are not done
    continuations: int = 0  # consumers of its context that are not done
    phase: Phase = WAITING
    attempt: int = 0  # number of the latest
    failures: int = 0
    losses: int = 0
    ticket: int = 0  # of its latest place in a queue
    since: float = 0.0  # when the latest attempt had all its operands
    rank: float = 0.0  # there
    engine: EngineState | None = None  # that runs it, or ran it last
    charge: Charge | None = None  # what its engine reckons with on its account
    ahead_ms: float = 0.0  # of that, reading that cannot begin yet
    found: Found | None = None  # who held the beginning of its prompt when its place was chosen
    move: Move | None = None  # the KV that its engine gets for it
    cached: float = 0.0  # tokens that its engine was expected to find in its cache
    tokens: float = 0.0  # of the context that it makes, as expected or as found
    shared: float = 0.0  # tokens of that which others on its engine began with, too, when it came there
    claim: Claim | None = None  # to KV on its engine, until nobody takes its context any more
    chain: Chain | None = None  # once all that it adds to its context is known
    prefix: Boundary | None = None  # the context that it has made
    advised: bool = False  # whether its worker was, or is to be, told to keep its context
    read: bool = False  # whether somebody in its run takes the text that it writes
    turn: bool = False  # whether its run counts it as wanting a language model
    counted: bool = False  # whether all its operands are known and its engine counts it as active

    @property
    def node(self) -> Node:
        """The node of the graph."""
        return self.primitive.node

    @property
    def key(self) -> EngineKey:
        """What it needs of a worker."""
        return self.primitive.key

    @property
    def consumers(self) -> Iterable[LiveNode]:
        """The nodes that wait for a result of it."""
        return self.takers.values() if self.takers is not None else ()

    def begin(self, engine: EngineState | None = None) -> None:
        """A new attempt is handed out; the caller reckons with it on the engine, and says `changed` there."""
        self.attempt += 1
        if self.attempt == 1:
            self.run.begun(self.primitive)
        self.phase = RUNNING
        self.engine = engine
        if engine is not None:
            engine.worker.tasks[self] = None
            self.run.holdings.setdefault(engine)

    def activate(self) -> None:
        """All operands of the task are known: its engine works on it."""
        if self.engine is not None:
            self.counted = True
            if self.ahead_ms:
                self.engine.can_read(self)
            self.engine.activate(1)
            self.engine.changed()

    def leave(self, phase: Phase) -> None:
        """The attempt is over."""
        self.phase = phase
        engine = self.engine
        if engine is not None and self in engine.worker.tasks:
            del engine.worker.tasks[self]
            if self.charge is not None and phase is DONE and self.primitive.key.kind != "tool":
                self.run.served_ms += self.charge.load_ms
            engine.discharge(self)
            if self.counted:
                self.counted = False
                engine.activate(-1)
            engine.changed()


@dataclass(eq=False, slots=True)
class LiveRun:
    """A run: its nodes, who takes whose results, and the engines that hold something of it."""

    id: str
    started: float  # monotonic seconds
    priority: int = 0
    grows: bool = False
    namespace: str = ""
    deadline: float | None = None
    served_ms: float = 0.0  # the time that engines have spent on it
    work_ms: float = 0.0  # that its nodes which are not done will take of engines; tools and people aside
    nodes: dict[int, LiveNode] = field(default_factory=dict)
    holdings: dict[EngineState, Holding | None] = field(default_factory=dict)  # None: a task, but no KV yet
    turns: int = 0  # primitives that want a language model now
    latest: LiveNode | None = None  # that has made a context
    waits_for: str = ""  # the tool that was called last
    places: dict[Pool, int] = field(default_factory=dict)  # admitted where, with tokens on no engine yet
    contents: dict[tuple[int, int], Content] = field(default_factory=dict)
    _beginnings: dict[int, int] = field(default_factory=dict)  # of the prompts that wait

    def add(self, primitives: Iterable[Primitive]) -> list[LiveNode]:
        """Take in nodes; one with the id of an older node takes its place and keeps its consumers."""
        added = []
        nodes = self.nodes
        for primitive in primitives:
            number, work_ms = primitive.node.id, _work_ms(primitive)
            live = LiveNode(primitive, self, number, work_ms)
            older = nodes.get(number)
            if older is not None:
                self.work_ms -= older.work_ms
                live.takers = older.takers
                live.continuations = older.continuations
            self.work_ms += work_ms
            nodes[number] = live
            if primitive.begins is not None:
                self._beginnings[primitive.begins] = self._beginnings.get(primitive.begins, 0) + 1
            for producer in primitive.producers:
                maker = nodes[producer]
                if maker.phase is not DONE:
                    live.waiting += 1
                    if maker.takers is None:
                        maker.takers = {}
                    maker.takers[number] = live
            context = primitive.context
            if context is not None:
                nodes[context].continuations += 1
            added.append(live)
        return added

    def revise(self, forecasts: Mapping[int, Forecast]) -> None:
        """Expect something else of nodes that are not done."""
        for number, forecast in forecasts.items():
            live = self.nodes[number]
            if live.phase is not DONE:
                self.work_ms -= live.work_ms
                live.primitive = replace(live.primitive, forecast=forecast)
                live.work_ms = 0.0 if live.phase is SHELVED else _work_ms(live.primitive)
                self.work_ms += live.work_ms

    def shelve(self, live: LiveNode) -> None:
        """Reckon with a node no longer."""
        self.work_ms -= live.work_ms
        live.work_ms = 0.0
        live.leave(SHELVED)

    def take_up(self, live: LiveNode) -> None:
        """Reckon with a node again."""
        live.work_ms = _work_ms(live.primitive)
        self.work_ms += live.work_ms
        live.phase = WAITING

    def complete(self, live: LiveNode) -> Iterable[LiveNode]:
        """Mark a node as done. Its consumers, each with one operand less to wait for."""
        if not live.attempt:
            self.begun(live.primitive)  # and never will be: what it makes was known
        self.work_ms -= live.work_ms
        live.leave(DONE)
        consumers, live.takers = live.consumers, None
        for consumer in consumers:
            consumer.waiting -= 1
        return consumers

    def dead_contexts(self, live: LiveNode) -> Sequence[LiveNode]:
        """The makers of the KV values that nobody takes any more now that `live` is done."""
        context, ended = live.primitive.context, []
        if context is not None:
            maker = self.nodes[context]
            maker.continuations -= 1
            if not maker.continuations:
                ended.append(maker)
        if live.primitive.makes_context and not live.continuations:
            ended.append(live)
        return () if self.grows else ended

    def begun(self, primitive: Primitive) -> None:
        """The prompt of a node waits no longer."""
        if primitive.begins is not None:
            self._beginnings[primitive.begins] -= 1

    def expects(self, maker: LiveNode) -> bool:
        """Whether a prompt that waits begins like the context that a node has made."""
        primitive = maker.primitive
        while primitive.context is not None:
            primitive = self.nodes[primitive.context].primitive
        return primitive.begins is not None and self._beginnings.get(primitive.begins, 0) > 0

    def let_go(self) -> None:
        """Forget the nodes, which would wait for the garbage collector, as they and the run name each other.

        And the texts: what still speaks of the run, a timer or a place in a queue, must not keep them.
        """
        self.nodes.clear()
        self.contents.clear()
        self.latest = None


def _work_ms(primitive: Primitive) -> float:
    return primitive.forecast.ms if primitive.key.kind != "tool" else 0.0
