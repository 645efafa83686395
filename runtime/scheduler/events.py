"""What the scheduler is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from weft.graph.analyses.forecast import Forecast
from weft.graph.costs import ModelCosts
from weft.graph.ir import Value

from .faults import Fault
from .prefixes import Content
from .primitive import Primitive

__all__ = [
    "EngineSpec",
    "Event",
    "Expanded",
    "NodesAdded",
    "NodesShelved",
    "NodesTakenUp",
    "PromptRead",
    "RunEnded",
    "RunStarted",
    "TaskDone",
    "TaskFailed",
    "Tick",
    "Usage",
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
    batch: int = 0  # primitives in one call beyond which a larger one gains nothing; 0: not measured
    item_ms: float = 0.0  # of each primitive in a call of that size
    kv_slots: int = 0  # of a language model: tokens whose KV it can hold; 0: unknown
    costs: ModelCosts | None = None  # of a language model, as measured
    kv_layout: str = ""  # engines of equal ones can have KV from each other; empty: none can
    kv_token_bytes: int = 0  # of the KV of one token
    shares_prefixes: bool = False  # whether a step reads KV that several texts have in common once


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
    priority: int = 0  # higher first; below 0: background work, which nobody waits for
    grows: bool = False
    namespace: str = ""  # whose work it is; runs of different namespaces never share KV
    deadline: float | None = None  # monotonic seconds at which its client gives up


@dataclass(frozen=True, slots=True)
class NodesAdded:
    """The live graph of a run has grown: primitives in topological order.

    `known`: values, of these nodes or earlier ones, that nobody needs to compute any more.
    """

    run: str
    nodes: tuple[Primitive, ...]
    known: Mapping[Value, Content | None] = field(default_factory=dict)
    revised: Mapping[int, Forecast] = field(default_factory=dict)
    """What is expected by now of nodes that were there before; those in a queue keep their place there."""


@dataclass(frozen=True, slots=True)
class NodesShelved:
    """Nobody needs these nodes now, nor will before `NodesTakenUp`, and nothing that is needed takes them."""

    run: str
    nodes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class NodesTakenUp:
    """Somebody needs these nodes again; those that are done by now stay so."""

    run: str
    nodes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ValuesKnown:
    """Values that no task makes are known: inputs, parts of texts that are being written, earlier results."""

    run: str
    values: Mapping[Value, Content | None]  # None: it has no textual form


@dataclass(frozen=True, slots=True)
class PromptRead:
    """A language model has read the prompt of a task, and begins to write."""

    run: str
    node: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Usage:
    """What a language model did for a task, in tokens."""

    cached: int = 0  # read before, and found in the cache
    computed: int = 0  # read now
    generated: int = 0
    fetched: int = 0  # of the cached ones: from another engine
    fetch_ms: float = 0.0  # that this took


@dataclass(frozen=True, slots=True)
class TaskDone:
    """A node's results are known."""

    run: str
    node: int
    attempt: int
    contents: tuple[Content | None, ...] = ()  # of its results, as far as they have a textual form
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class TaskFailed:
    """An attempt of a node failed."""

    run: str
    node: int
    attempt: int
    fault: Fault


@dataclass(frozen=True, slots=True)
class Expanded:
    """A control node became `nodes`; the last of them has its id and takes its place. `known`: see above."""

    run: str
    node: int
    nodes: tuple[Primitive, ...]
    known: Mapping[Value, Content | None] = field(default_factory=dict)


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
    | NodesShelved
    | NodesTakenUp
    | ValuesKnown
    | PromptRead
    | TaskDone
    | TaskFailed
    | Expanded
    | RunEnded
    | Tick
)
