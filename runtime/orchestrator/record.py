"""What is remembered of a run: its events, its outcome, and when each primitive ran."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from weft.proto import orchestrator_pb2 as pb
from weft.proto import value_pb2
from weft.runtime.scheduler.faults import Fault

from .faults import encode_fault

__all__ = ["EventLog", "RunRecord", "State"]

State = Literal["running", "done", "failed", "cancelled"]

_KEPT_EVENTS: Final = 10_000  # of a finished run


class EventLog:
    """The events of a run, for any number of followers, each from the beginning."""

    def __init__(self) -> None:
        self._events: list[pb.RunEvent] = []
        self._closed = False
        self._changed = asyncio.Event()

    def append(self, event: pb.RunEvent) -> None:
        """Add an event."""
        self._events.append(event)
        self._wake()

    def close(self) -> None:
        """There are no more events. Those of the past are condensed; present followers still get each."""
        self._closed = True
        self._wake()
        self._events = _condensed(self._events)

    async def follow(self) -> AsyncIterator[pb.RunEvent]:
        """Every event, past and to come, until the log is closed."""
        async for events in self.batches():
            for event in events:
                yield event

    async def batches(self) -> AsyncIterator[Sequence[pb.RunEvent]]:
        """The same events, as many at once as there are: a slow follower gets fewer and larger batches."""
        events, position = self._events, 0
        while True:
            if position < len(events):
                batch = events[position:]
                position += len(batch)
                yield batch
            elif self._closed:
                return
            else:
                await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _condensed(events: Sequence[pb.RunEvent]) -> list[pb.RunEvent]:
    """The same events with the deltas of each text as one, and only the last of very many."""
    texts: dict[tuple[int, int], list[str]] = {}
    for event in events:
        if event.HasField("delta"):
            texts.setdefault(_streamed(event), []).append(event.delta.text)
    kept = []
    for event in events:
        if not event.HasField("delta"):
            kept.append(event)
        elif _streamed(event) in texts:
            whole = pb.TextDelta(value=event.delta.value, text="".join(texts.pop(_streamed(event))))
            kept.append(pb.RunEvent(run=event.run, at_s=event.at_s, delta=whole))
    return kept[-_KEPT_EVENTS:]


def _streamed(event: pb.RunEvent) -> tuple[int, int]:
    return event.delta.value.node, event.delta.value.output


@dataclass(eq=False)
class RunRecord:
    """A run as its observers see it. It outlives the run itself."""

    id: str
    program: str
    started_s: float  # monotonic
    started_unix_s: float
    log: EventLog = field(default_factory=EventLog)
    stats: dict[int, pb.NodeStat] = field(default_factory=dict)  # of finished primitives, by node
    nodes: int = 0
    nodes_done: int = 0
    state: State = "running"
    seconds: float = 0.0  # from beginning to end
    fault: Fault | None = None
    outputs: tuple[value_pb2.Datum, ...] = ()
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def emit(self, event: pb.RunEvent, now: float) -> None:
        """Tell the followers."""
        event.run = self.id
        event.at_s = now - self.started_s
        self.log.append(event)

    def end(self, state: State, fault: Fault | None, outputs: Sequence[value_pb2.Datum], now: float) -> None:
        """Note the outcome and tell the followers; nothing follows it."""
        self.state, self.fault, self.outputs = state, fault, tuple(outputs)
        self.seconds = now - self.started_s
        self.emit(pb.RunEvent(finished=self.result()), now)
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
            stats=self.stats.values() if over and stats else (),
        )

    def result(self) -> pb.RunResult:
        """The outcome of a run that is over."""
        info = self.info(self.started_s + self.seconds, stats=True)
        fault = encode_fault(self.fault) if self.fault else None
        return pb.RunResult(info=info, outputs=self.outputs, fault=fault)
