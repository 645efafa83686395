"""The primitives of a run that is over, each with what every moment of it was spent on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal

from weft.proto import orchestrator_pb2 as pb

from .units import brief_location

__all__ = ["CLIENT", "ORCHESTRATOR", "PERSON", "PHASES", "WAITING", "Phase", "Slice", "Task"]

Phase = Literal[
    "wait", "queue", "transfer", "fetch", "prefill", "decode", "compute", "tool", "orchestrator", "client"
]

PHASES: Final[dict[Phase, str]] = {
    "wait": "in the orchestrator, for a worker with room",
    "queue": "on the worker, for its engine",
    "transfer": "on the way to the worker and back",
    "fetch": "KV comes from another worker",
    "prefill": "a model reads",
    "decode": "a model writes",
    "compute": "embedding, indexing, searching, reranking",
    "tool": "a tool runs, or a person is asked",
    "orchestrator": "scheduling, and what the orchestrator computes itself",
    "client": "the program's own code, and its connection",
}
"""What a moment of a run can be spent on, in words."""

WAITING: Final[frozenset[Phase]] = frozenset({"wait", "queue", "transfer"})
"""The phases in which nothing is done for the primitive."""

ORCHESTRATOR: Final = "orchestrator"
CLIENT: Final = "client"
PERSON: Final = "person"
"""The places that are no workers, as servers name them."""


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of a run spent on one thing; in seconds since the run began."""

    phase: Phase
    start_s: float
    end_s: float

    @property
    def ms(self) -> float:
        """Its length."""
        return (self.end_s - self.start_s) * 1e3

    def until(self, end_s: float) -> Slice:
        """The part of it before `end_s`; it may be empty."""
        return Slice(self.phase, min(self.start_s, end_s), min(self.end_s, end_s))


@dataclass(frozen=True, slots=True)
class Task:
    """A primitive that has run. Times are in seconds since the run began."""

    node: int
    label: str
    location: str
    worker: str
    kind: str  # of engine; empty if the server does not say
    ready_s: float
    start_s: float  # a worker had it, and it its operands
    finished_s: float
    predicted_ms: float
    operands: tuple[int, ...]  # the nodes whose results it took
    slices: tuple[Slice, ...]  # one after the other, from ready to finished
    cached_tokens: int = 0
    computed_tokens: int = 0
    generated_tokens: int = 0
    fetched_tokens: int = 0  # of the cached ones: from another worker
    prompt_tokens: int = 0  # of the whole prompt after which it wrote or weighed

    @classmethod
    def of(cls, stat: pb.NodeStat) -> Task:
        """The task that a server tells of."""
        ready = min(stat.ready_s, stat.finished_s)
        start = min(max(ready, stat.dispatched_s), stat.finished_s)
        return cls(
            stat.node,
            stat.label,
            stat.location,
            stat.worker,
            stat.kind,
            ready,
            start,
            stat.finished_s,
            stat.predicted_ms,
            tuple(dict.fromkeys(value.node for value in stat.operands)),
            tuple(_slices(stat, ready, start)),
            stat.timing.cached_tokens,
            stat.timing.computed_tokens,
            stat.timing.generated_tokens,
            stat.timing.fetched_tokens,
            stat.timing.prompt_tokens,
        )

    @property
    def name(self) -> str:
        """How people find it: its label, and the line of code that made it."""
        return f"{self.label} ({brief_location(self.location)})" if self.location else self.label

    @property
    def work_ms(self) -> float:
        """How long something was done for it."""
        return sum(part.ms for part in self.slices if part.phase not in WAITING)

    @property
    def wait_ms(self) -> float:
        """How long it waited for a worker, its engine and messages once it was ready."""
        return sum(part.ms for part in self.slices if part.phase in WAITING)


def _slices(stat: pb.NodeStat, ready_s: float, start_s: float) -> Iterator[Slice]:
    """Contiguous, none of them empty.

    A worker times a task by its own clock, from the moment it had all operands. Its phases are laid so that
    they end with the task; what is left before them went by on the way.
    """
    if start_s > ready_s:
        yield Slice("orchestrator" if stat.worker == ORCHESTRATOR else "wait", ready_s, start_s)
    phases = _phases(stat)
    bounds = [stat.finished_s]
    for _, seconds in reversed(phases):
        bounds.append(max(start_s, bounds[-1] - seconds))
    bounds.append(start_s)
    names = [_rest(stat), *(phase for phase, _ in phases)]
    for phase, (begin, end) in zip(names, pairwise(reversed(bounds)), strict=True):
        if end > begin:
            yield Slice(phase, begin, end)


def _phases(stat: pb.NodeStat) -> list[tuple[Phase, float]]:
    timing = stat.timing
    work: Phase = "tool" if stat.kind == "tool" else "compute"
    phases: list[tuple[Phase, float]] = [
        ("queue", timing.queued),
        ("fetch", timing.fetch),
        ("prefill", timing.prefill),
        ("decode", timing.decode),
        (work, timing.compute),
    ]
    return [(phase, seconds) for phase, seconds in phases if seconds > 0]


def _rest(stat: pb.NodeStat) -> Phase:
    """What a task's time is spent on that its worker does not account for."""
    if stat.worker == ORCHESTRATOR:
        return "orchestrator"
    if stat.worker in (CLIENT, PERSON):
        return "tool"
    return "transfer"
