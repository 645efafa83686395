"""What the scheduler is told."""

from __future__ import annotations

from dataclasses import dataclass

from weft.graph.ir import Node, Value

from .faults import Fault

__all__ = [
    "EngineSpec",
    "Event",
    "Expanded",
    "NodesAdded",
    "RunEnded",
    "RunStarted",
    "TaskDone",
    "TaskFailed",
    "Tick",
    "ValuesKnown",
    "WorkerJoined",
    "WorkerLost",
]


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """An engine of a worker."""

    kind: str  # llm, embed, index, rerank or tool
    model: str = ""  # of a tool: its name
    capacity: int = 0  # primitives at the same time; 0: as many as there are


@dataclass(frozen=True, slots=True)
class WorkerJoined:
    """A worker can be given work. One that joins again under its old id holds nothing of what it held."""

    worker: str
    engines: tuple[EngineSpec, ...]


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """A worker is gone, with all that it was doing."""

    worker: str
    reason: str


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run exists; its nodes follow. KV values of a run that `grows` are kept until its end."""

    run: str
    priority: int = 0  # higher first
    grows: bool = False


@dataclass(frozen=True, slots=True)
class NodesAdded:
    """The live graph of a run has grown: primitives in topological order."""

    run: str
    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class ValuesKnown:
    """Values that no task makes are known: the inputs of a run."""

    run: str
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class TaskDone:
    """A node's results are known."""

    run: str
    node: int
    attempt: int


@dataclass(frozen=True, slots=True)
class TaskFailed:
    """An attempt of a node failed."""

    run: str
    node: int
    attempt: int
    fault: Fault


@dataclass(frozen=True, slots=True)
class Expanded:
    """A control node became `nodes`; the last of them has its id and takes its place."""

    run: str
    node: int
    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class RunEnded:
    """A run is finished or cancelled; what is left of it is of no use to anybody."""

    run: str


@dataclass(frozen=True, slots=True)
class Tick:
    """The time of an earlier `WakeAt` has come."""


Event = (
    WorkerJoined
    | WorkerLost
    | RunStarted
    | NodesAdded
    | ValuesKnown
    | TaskDone
    | TaskFailed
    | Expanded
    | RunEnded
    | Tick
)
