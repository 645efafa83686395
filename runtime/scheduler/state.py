"""What the scheduler remembers: live runs, their nodes, and workers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple

from weft.graph.ir import Node, Value
from weft.graph.ops.base import Op
from weft.graph.ops.common import Embed, Tool
from weft.graph.ops.primitive import Decode, Prefill, Score, Weigh

from .events import EngineSpec

__all__ = [
    "EngineKey",
    "EngineState",
    "LiveNode",
    "LiveRun",
    "Phase",
    "WorkerState",
    "engine_of",
    "kv_source",
]


class EngineKey(NamedTuple):
    """What a primitive needs of a worker. An empty model is any."""

    kind: str
    model: str

    def __str__(self) -> str:
        return f"{self.kind} {self.model!r}" if self.model else self.kind


def engine_of(op: Op) -> EngineKey:
    """The engine that runs the operation."""
    match op:
        case Prefill() | Decode() | Score() | Weigh() | Embed():
            return EngineKey(op.kind, op.model)
        case Tool(tool=tool):
            return EngineKey(op.kind, tool)
        case _:
            return EngineKey(op.kind, "")


def kv_source(node: Node) -> int | None:
    """The node whose KV context this one continues."""
    value = node.args.get("kv") if node.op.kind == "llm" else None
    return None if value is None else value.node


class Phase(Enum):
    """Where a node stands."""

    WAITING = auto()  # for operands
    QUEUED = auto()  # for a worker with room
    RUNNING = auto()  # handed out; in a fragment perhaps still without all its operands
    RETRYING = auto()  # for the end of a back-off
    DONE = auto()


@dataclass(slots=True)
class EngineState:
    """An engine of a live worker."""

    spec: EngineSpec
    active: int = 0  # tasks handed out whose operands are all known

    @property
    def has_room(self) -> bool:
        """Whether it works on fewer primitives than it can."""
        return not self.spec.capacity or self.active < self.spec.capacity


@dataclass(eq=False, slots=True)
class WorkerState:
    """One membership of a worker, from its joining to its loss; when it rejoins, it is another."""

    id: str
    number: int  # order of joining
    engines: tuple[EngineState, ...]
    alive: bool = True
    tasks: dict[tuple[str, int], LiveNode] = field(default_factory=dict)  # by run and node

    def engine(self, key: EngineKey) -> EngineState | None:
        """Its engine for such primitives."""
        for engine in self.engines:
            if engine.spec.kind == key.kind and key.model in ("", engine.spec.model):
                return engine
        return None


@dataclass(eq=False, slots=True)
class LiveNode:
    """A node of a live run."""

    node: Node
    run: LiveRun
    waiting: int = 0  # producers of operands that are not done
    phase: Phase = Phase.WAITING
    attempt: int = 0  # number of the latest
    failures: int = 0
    losses: int = 0
    worker: WorkerState | None = None  # that runs it, or ran it last
    engine: EngineState | None = None  # that counts it as active

    @property
    def key(self) -> EngineKey:
        """What it needs of a worker."""
        return engine_of(self.node.op)

    def begin(self, worker: WorkerState | None = None) -> None:
        """A new attempt is handed out."""
        self.attempt += 1
        self.phase = Phase.RUNNING
        self.worker = worker
        if worker is not None:
            worker.tasks[self.run.id, self.node.id] = self
            self.run.workers[worker.id] = worker

    def activate(self) -> None:
        """All operands of the task are known: its engine works on it."""
        self.engine = self.worker.engine(self.key) if self.worker else None
        if self.engine:
            self.engine.active += 1

    def leave(self, phase: Phase) -> None:
        """The attempt is over."""
        self.phase = phase
        if self.worker:
            self.worker.tasks.pop((self.run.id, self.node.id), None)
        if self.engine:
            self.engine.active -= 1
            self.engine = None


@dataclass(eq=False, slots=True)
class LiveRun:
    """A run: its nodes, who takes whose results, and the workers that hold something of it."""

    id: str
    priority: int
    grows: bool
    nodes: dict[int, LiveNode] = field(default_factory=dict)
    workers: dict[str, WorkerState] = field(default_factory=dict)
    _consumers: dict[int, dict[int, LiveNode]] = field(default_factory=dict)
    _continuations: dict[int, int] = field(default_factory=dict)  # unfinished consumers of each KV value

    def add(self, nodes: Iterable[Node]) -> list[LiveNode]:
        """Take in nodes; one with the id of an older node takes its place and keeps its consumers."""
        added = []
        for node in nodes:
            live = LiveNode(node, self)
            self.nodes[node.id] = live
            for producer in {value.node: None for value in node.args.values()}:
                if self.nodes[producer].phase is not Phase.DONE:
                    live.waiting += 1
                    self._consumers.setdefault(producer, {})[node.id] = live
            source = kv_source(node)
            if source is not None:
                self._continuations[source] = self._continuations.get(source, 0) + 1
            added.append(live)
        return added

    def complete(self, live: LiveNode) -> list[LiveNode]:
        """Mark a node as done. Its consumers, each with one operand less to wait for."""
        live.leave(Phase.DONE)
        consumers = list(self._consumers.pop(live.node.id, {}).values())
        for consumer in consumers:
            consumer.waiting -= 1
        return consumers

    def dead_contexts(self, live: LiveNode) -> Sequence[LiveNode]:
        """The makers of the KV values that nobody takes any more now that `live` is done."""
        ended = []
        source = kv_source(live.node)
        if source is not None:
            self._continuations[source] -= 1
            ended.append(self.nodes[source])
        if isinstance(live.node.op, (Prefill, Decode)):
            ended.append(live)
        return [maker for maker in ended if not self.grows and not self._continuations.get(maker.node.id)]

    def continuations(self, live: LiveNode) -> Sequence[LiveNode]:
        """The nodes that wait for the KV value of `live` to continue it."""
        consumers = self._consumers.get(live.node.id, {}).values()
        return [consumer for consumer in consumers if kv_source(consumer.node) == live.node.id]

    def operands(self, consumer: LiveNode, producer: LiveNode) -> Iterator[Value]:
        """The results of `producer` that `consumer` takes."""
        return (value for value in consumer.node.args.values() if value.node == producer.node.id)
