"""What the session of a worker asks of an engine."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from weft.graph.ir import Node
from weft.graph.ops.base import EngineKind
from weft.graph.values import Datum, KvValue
from weft.proto import worker_pb2
from weft.runtime.kv.advice import Advice
from weft.runtime.llm.context import Context

__all__ = [
    "Caching",
    "Emit",
    "Engine",
    "Gauges",
    "HeldKv",
    "KvSource",
    "Lending",
    "Mortal",
    "Operands",
    "Outcome",
    "StartError",
    "Stream",
    "Task",
    "Timing",
    "Yielding",
]

Operands = Mapping[str, Datum]
"""The values of a node's arguments, by argument name."""

Emit = Callable[[str], None]
"""Takes further text of a streamed task. Called on the event loop."""


class StartError(Exception):
    """An engine, or the worker's server, cannot start; the message is one line that says why."""


@dataclass(frozen=True, slots=True)
class HeldKv(KvValue):
    """A KV value that this worker has made, with the token ids that its key stands for."""

    context: Context = field(kw_only=True)
    model: str = field(kw_only=True)
    namespace: str = field(kw_only=True)
    head: int | None = field(default=None, kw_only=True)
    """How many tokens come before the first text that a model has written in it; None: there is none."""


class Stream(Enum):
    """Which of the text that a decode writes is wanted before its end."""

    NONE = worker_pb2.STREAM_NONE
    TEXT = worker_pb2.STREAM_TEXT
    """What each step adds."""
    PARTS = worker_pb2.STREAM_PARTS
    """Of JSON: as far as it goes, whenever an item or a field of it closes."""


@dataclass(frozen=True, slots=True)
class KvSource:
    """A worker that has read more of a prompt; `wait_s`: the longest to wait for what it is computing."""

    address: str
    wait_s: float


@dataclass(slots=True, eq=False)
class Task:
    """One attempt of one primitive of a run; equal to itself alone. Nobody changes it."""

    run: str
    node: Node
    attempt: int = 1
    stream: Stream = Stream.NONE
    internal: bool = False
    """Whether only tasks that came along with it wait for its results."""
    timeout_s: float | None = None
    namespace: str = ""
    priority: int = 0
    since: float = field(default_factory=time.monotonic)
    """Monotonic seconds from which what it asks of a model counts as waiting."""
    source: KvSource | None = None
    fused: bool = False
    """Of a prefill: what continues it starts at once, and computes these tokens too."""

    @property
    def key(self) -> tuple[str, int]:
        """The run and the node's id."""
        return self.run, self.node.id

    @property
    def waited(self) -> float:
        """The seconds that what it asks of a model now counts as having waited; may be negative."""
        return time.monotonic() - self.since


class Timing(NamedTuple):
    """Where a task's time went, in seconds, and what it took; `weft.v1.Timing` explains the fields."""

    queued: float = 0.0
    prefill: float = 0.0
    decode: float = 0.0
    compute: float = 0.0
    cached_tokens: int = 0
    computed_tokens: int = 0
    generated_tokens: int = 0
    batch: int = 1
    prompt_tokens: int = 0
    finish: Literal["", "stop", "length"] = ""
    reused: bool = False
    fetch: float = 0.0
    fetched_tokens: int = 0


class Outcome(NamedTuple):
    """What a task gave: one value per result of its operation."""

    results: tuple[Datum, ...]
    timing: Timing = Timing()


@dataclass(frozen=True, slots=True)
class Gauges:
    """What an engine holds now."""

    kv_free: int = 0
    kv_cached: int = 0
    kv_running: int = 0
    kv_pins_met: int = 0
    kv_pins_broken: int = 0
    indexes: tuple[worker_pb2.IndexInfo, ...] = ()


@runtime_checkable
class Yielding(Protocol):
    """An engine that reads prompts ahead."""

    def overtake(self, task: Task) -> None:
        """End a running prefill: what continues it has all else that it takes, and reads this too."""


class Engine(Protocol):
    """Computes primitives of one kind. All methods are called on the event loop."""

    @property
    def kind(self) -> EngineKind:
        """The kind of operations that it takes."""

    @property
    def model(self) -> str:
        """The model's name; empty for engines without one."""

    def info(self) -> worker_pb2.EngineInfo:
        """What it offers; complete once it has started."""

    def gauges(self) -> Gauges:
        """What it holds now; cheap."""

    async def start(self) -> None:
        """Load what it needs. Raises `StartError` with one clear line if it cannot."""

    async def stop(self) -> None:
        """Give everything back; tasks that still run fail."""

    async def execute(self, task: Task, operands: Operands, emit: Emit) -> Outcome:
        """Compute one task. Raises what `weft.runtime.worker.faults` maps to faults.

        Cancelling the call cancels the computation, and ends once its resources are free.
        """


@runtime_checkable
class Mortal(Protocol):
    """An engine that something can befall after which it is of no use until its process starts again."""

    async def fail(self) -> None:
        """Wait for that; raises what has happened."""


@runtime_checkable
class Lending(Protocol):
    """An engine that gives other workers KV that it has computed."""

    def lend(self, request: worker_pb2.FetchKvRequest) -> AsyncIterator[worker_pb2.KvPart]:
        """What it has of the KV that is asked for. Raises TaskError for what does not fit its model."""


@runtime_checkable
class Caching(Protocol):
    """An engine that keeps what it has read."""

    def flush(self) -> None:
        """Forget all of it that no task uses."""

    def advise(self, held: HeldKv, advice: Advice) -> None:
        """Hear what is known of the future of a context."""
