"""What is remembered of a run: its events, its outcome, and when each primitive ran.

Most of it nobody ever looks at, so it becomes messages only when somebody does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import add
from typing import Final, Literal, NamedTuple, Protocol, cast

from weft.graph.codec import encode_value
from weft.graph.ir import Node
from weft.proto import orchestrator_pb2 as pb
from weft.proto import value_pb2, worker_pb2
from weft.runtime.scheduler.faults import Fault

from .faults import decode_fault, encode_fault

__all__ = [
    "OBSERVED",
    "Attempt",
    "EventLog",
    "NodeChange",
    "NodeTimes",
    "Outcome",
    "RunRecord",
    "State",
    "Unfinished",
]

State = Literal["running", "done", "failed", "cancelled"]
Outcome = Literal["failed", "cancelled", "superseded"]
"""How an attempt ends that gives no results; `superseded`: it was given up for another one, because its
worker was lost, it took too long, or what it follows on failed."""

OBSERVED: Final = frozenset({"llm", "embed", "index", "rerank", "tool"})
"""Kinds of nodes whose phases clients and monitoring hear of; the rest takes microseconds."""

_KEPT_EVENTS: Final = 10_000  # of a finished run
_NODE_BYTES: Final = 1024  # of what is remembered of a primitive, about


class Deferred(Protocol):
    """An event that becomes a message when somebody follows the run."""

    def message(self, *, quiet: bool) -> pb.RunEvent | None:
        """As a follower sees it; None: a `quiet` one does not."""
        ...


class NodeChange(NamedTuple):
    """A primitive has come into another phase."""

    run: str
    at_s: float  # since the run began
    node: Node
    phase: str
    worker: str
    timing: worker_pb2.Timing | None
    fault: Fault | None

    def message(self, *, quiet: bool) -> pb.RunEvent | None:
        """As a follower sees it, unless it is quiet."""
        if quiet:
            return None
        event = pb.NodeEvent(
            node=self.node.id,
            label=self.node.label(),
            phase=self.phase,
            worker=self.worker,
            timing=self.timing,
            fault=encode_fault(self.fault) if self.fault else None,
            op=self.node.op.label(),
            name=self.node.name,
        )
        return pb.RunEvent(run=self.run, at_s=self.at_s, node=event)


class Attempt(NamedTuple):
    """An attempt of a primitive is handed out."""

    run: str
    at_s: float  # since the run began
    node: Node
    worker: str  # or the name of another track
    number: int

    def message(self, *, quiet: bool) -> pb.RunEvent | None:
        """That it has started, as a follower sees it."""
        started = NodeChange(self.run, self.at_s, self.node, "started", self.worker, None, None)
        return started.message(quiet=quiet)


class Unfinished(NamedTuple):
    """An attempt of a primitive that gave no results."""

    attempt: Attempt
    until_s: float  # since the run began
    outcome: Outcome
    fault: Fault | None


class NodeTimes(NamedTuple):
    """A primitive is done: when it was ready and finished, in seconds since the run began."""

    attempt: Attempt
    ready_s: float
    finished_s: float
    measured: bytes  # a Timing: as a message each would take ten times the memory
    reused: bool  # whether that says so
    predicted_ms: float

    @property
    def node(self) -> Node:
        """The primitive."""
        return self.attempt.node

    @property
    def timing(self) -> worker_pb2.Timing:
        """What the worker has measured."""
        return worker_pb2.Timing.FromString(self.measured)

    @property
    def seconds(self) -> float:
        """It took, from when it could begin."""
        return max(0.0, self.finished_s - max(self.ready_s, self.attempt.at_s))

    def message(self, *, quiet: bool) -> pb.RunEvent | None:
        """That it is done, as a follower sees it."""
        if quiet:
            return None
        run, _, node, worker, _ = self.attempt
        done = NodeChange(run, self.finished_s, node, "done", worker, self.timing, None)
        return done.message(quiet=quiet)

    def stat(self) -> pb.NodeStat:
        """As results and traces have it."""
        return pb.NodeStat(
            node=self.node.id,
            label=self.node.label(),
            worker=self.attempt.worker,
            ready_s=self.ready_s,
            dispatched_s=self.attempt.at_s,
            finished_s=self.finished_s,
            timing=self.timing,
            location=self.node.location,
            operands=[encode_value(value) for value in self.node.args.values()],
            predicted_ms=self.predicted_ms,
            kind=self.node.op.kind,
        )


class Tokens(NamedTuple):
    """What the models of a run have read and written."""

    prompt: int = 0
    computed: int = 0  # of the prompts: what was not in a cache
    generated: int = 0

    def plus(self, other: Tokens) -> Tokens:
        """Both together."""
        return Tokens(*map(add, self, other))


_Entry = pb.RunEvent | Deferred


class EventLog:
    """The events of a run, for any number of followers, each from the beginning."""

    def __init__(self) -> None:
        self._events: list[_Entry] = []
        self._closed = False
        self._changed: asyncio.Future[None] | None = None  # there while somebody waits

    def append(self, event: _Entry) -> None:
        """Add an event."""
        self._events.append(event)
        if self._changed is not None:
            self._wake()

    def close(self) -> None:
        """There are no more events. Those of the past are condensed; present followers still get each."""
        self._closed = True
        self._wake()
        self._events = _condensed(self._events)

    @property
    def size(self) -> int:
        """The bytes of the events that are messages."""
        return sum(event.ByteSize() for event in self._events if isinstance(event, pb.RunEvent))

    async def follow(self, *, quiet: bool = False) -> AsyncIterator[pb.RunEvents]:
        """Every event, past and to come, until the log is closed; as many at once as there are.

        To a `quiet` follower nobody says what only observers look at.
        """
        events, position = self._events, 0
        while True:
            if position < len(events):
                found, position = events[position:], len(events)
                messages = [_message(event, quiet) for event in found]
                if any(messages):
                    yield pb.RunEvents(events=filter(None, messages))
            elif self._closed:
                return
            else:
                self._changed = self._changed or asyncio.get_running_loop().create_future()
                await asyncio.shield(self._changed)

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set_result(None)
            self._changed = None


def _message(event: _Entry, quiet: bool) -> pb.RunEvent | None:
    return event if isinstance(event, pb.RunEvent) else event.message(quiet=quiet)


def _condensed(events: Sequence[_Entry]) -> list[_Entry]:
    """The same events with the deltas of each text as one, and only the last of very many."""
    deltas = [event for event in events if isinstance(event, pb.RunEvent) and event.HasField("delta")]
    texts: dict[tuple[int, int, int], list[str]] = {}
    for delta in deltas:
        pieces = texts.setdefault(_streamed(delta), [])
        if delta.delta.again:
            pieces.clear()
        pieces.append(delta.delta.text)
    kept: list[_Entry] = []
    for event in events if deltas else ():
        if not (isinstance(event, pb.RunEvent) and event.HasField("delta")):
            kept.append(event)
        elif _streamed(event) in texts:
            whole = pb.RunEvent()
            whole.CopyFrom(event)
            whole.delta.text = "".join(texts.pop(_streamed(event)))
            kept.append(whole)
    return kept[-_KEPT_EVENTS:] if deltas else list(events[-_KEPT_EVENTS:])


def _streamed(event: pb.RunEvent) -> tuple[int, int, int]:
    """Which text, of those that the client has named or that a node writes, an event is about."""
    delta = event.delta
    return delta.node, delta.value.node, delta.value.output


@dataclass(eq=False)
class RunRecord:
    """A run as its observers see it. It outlives the run itself."""

    id: str
    program: str
    started_s: float  # monotonic
    started_unix_s: float
    namespace: str = ""
    caller: Mapping[str, str] = field(default_factory=dict)  # the W3C trace context that the run belongs to
    times: dict[int, NodeTimes] = field(default_factory=dict)  # of finished primitives, by node
    unfinished: list[Unfinished] = field(default_factory=list)  # attempts, of what is OBSERVED
    first_text_s: float | None = None  # until the first piece of a text that the client streams
    nodes: int = 0
    nodes_done: int = 0
    state: State = "running"
    seconds: float = 0.0  # from beginning to end
    fault: Fault | None = None
    outputs: tuple[value_pb2.Datum, ...] = ()
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    log: EventLog = field(default_factory=EventLog)
    lasting: bool = False  # whether it belongs to no client's stream
    told: tuple[pb.NodeStat, ...] = ()  # of primitives, by an earlier server
    read_bytes: int = 0  # of graphs that no other run has
    parent: str = ""  # the run that has started this one, if any
    below: Tokens = field(default_factory=Tokens)  # of the runs that it has started and that are over

    @classmethod
    def of(cls, result: pb.RunResult, now: float) -> RunRecord:
        """A detached run that was over when an earlier server ended."""
        info = result.info
        started_s = now - max(0.0, time.time() - info.started_unix_s)  # unless the clock was set back
        record = cls(info.run, info.program, started_s, info.started_unix_s, lasting=True, parent=info.parent)
        record.nodes, record.nodes_done, record.told = info.nodes, info.nodes_done, tuple(info.stats)
        record.emit(pb.RunEvent(started=record.info(started_s)), started_s)
        fault = decode_fault(result.fault) if result.HasField("fault") else None
        record.end(cast("State", info.state), fault, result.outputs, started_s + info.seconds)
        return record

    @property
    def ended_s(self) -> float:
        """When a run that is over has ended."""
        return self.started_s + self.seconds

    @property
    def size(self) -> int:
        """The bytes that it takes, about, once it is over."""
        messages = sum(message.ByteSize() for message in (*self.outputs, *self.told))
        return self.read_bytes + messages + self.log.size + _NODE_BYTES * len(self.times)

    @property
    def tokens(self) -> Tokens:
        """Those of its own models so far, and of the runs that it has started and that are over."""
        timings = [times.timing for times in self.times.values()]
        own = Tokens(
            sum(timing.prompt_tokens for timing in timings),
            sum(timing.computed_tokens for timing in timings),
            sum(timing.generated_tokens for timing in timings),
        )
        return own.plus(self.below)

    def emit(self, event: pb.RunEvent, now: float) -> None:
        """Tell the followers."""
        event.run = self.id
        event.at_s = now - self.started_s
        self.log.append(event)

    def end(self, state: State, fault: Fault | None, outputs: Sequence[value_pb2.Datum], now: float) -> None:
        """Note the outcome and tell the followers; nothing follows it."""
        self.state, self.fault, self.outputs = state, fault, tuple(outputs)
        self.seconds = now - self.started_s
        self.log.append(_Ended(self))
        self.log.close()
        self.ended.set()

    def info(self, now: float, *, stats: bool = False) -> pb.RunInfo:
        """The run in short; with the time of each primitive if it is over and they are asked for."""
        over = self.state != "running"
        return pb.RunInfo(
            run=self.id,
            program=self.program,
            state=self.state,
            started_unix_s=self.started_unix_s,
            seconds=self.seconds if over else now - self.started_s,
            nodes=self.nodes,
            nodes_done=self.nodes_done,
            stats=self.stats() if over and stats else (),
            parent=self.parent,
        )

    def stats(self) -> list[pb.NodeStat]:
        """When each primitive ran that has finished."""
        return [*self.told, *(times.stat() for times in self.times.values())]

    def result(self, *, quiet: bool = False) -> pb.RunResult:
        """The outcome of a run that is over."""
        info = self.info(self.ended_s, stats=not quiet)
        fault = encode_fault(self.fault) if self.fault else None
        return pb.RunResult(info=info, outputs=self.outputs, fault=fault)


class _Ended(NamedTuple):
    """A run is over."""

    record: RunRecord

    def message(self, *, quiet: bool) -> pb.RunEvent:
        result = self.record.result(quiet=quiet)
        return pb.RunEvent(run=self.record.id, at_s=self.record.seconds, finished=result)
