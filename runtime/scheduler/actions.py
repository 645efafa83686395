"""What the scheduler wants done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from weft.graph.ir import Value

from .faults import Fault

__all__ = [
    "Action",
    "AskClient",
    "CancelTasks",
    "Dispatch",
    "Evaluate",
    "Expand",
    "Fragment",
    "Keep",
    "NodeFailed",
    "Release",
    "Source",
    "WakeAt",
]


class Fragment(NamedTuple):
    """Connected primitives of a run. Each takes only what is known, or what others before it give."""

    run: str
    tasks: tuple[tuple[int, int], ...]  # (node, attempt)


class Source(NamedTuple):
    """Where a task finds KV that its worker lacks; it may wait there for as long as computing it takes."""

    run: str
    node: int
    worker: str
    wait_s: float


class Keep(NamedTuple):
    """Advice: the context that a node has made is going to be taken again."""

    run: str
    node: int
    expires: float  # monotonic seconds; from then on there is no telling
    begins: float = 0.0  # monotonic seconds; before, it is not going to be


class Dispatch(NamedTuple):
    """Send fragments to a worker in one message, with those of their operands that the worker lacks."""

    worker: str
    fragments: tuple[Fragment, ...]
    sources: tuple[Source, ...] = ()
    keep: tuple[Keep, ...] = ()  # advice on what the worker holds


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Compute a host node here and report TaskDone or TaskFailed."""

    run: str
    node: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Expand:
    """Turn a control node, whose operands are known, into nodes here and report Expanded or TaskFailed."""

    run: str
    node: int
    attempt: int


@dataclass(frozen=True, slots=True)
class AskClient:
    """Have the client run one of its tools."""

    run: str
    node: int
    attempt: int


@dataclass(frozen=True, slots=True)
class CancelTasks:
    """Have a worker stop tasks of a run."""

    worker: str
    run: str
    nodes: tuple[int, ...] = ()  # empty: all


class Release(NamedTuple):
    """Have a worker forget values of a run."""

    worker: str
    run: str
    values: tuple[Value, ...] = ()  # empty: all
    dead: tuple[Value, ...] = ()  # of these: contexts that nobody will ask for again


@dataclass(frozen=True, slots=True)
class NodeFailed:
    """A node has failed for good, and is shelved. Who needs it cannot go on."""

    run: str
    node: int
    fault: Fault


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Send a Tick at this time, or as soon afterwards as is convenient. Never later than asked before."""

    time: float  # monotonic seconds


Action = Dispatch | Evaluate | Expand | AskClient | CancelTasks | Release | NodeFailed | WakeAt
