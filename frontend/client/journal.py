"""What one run has sent so far: events, values, text, and how it ended."""

from __future__ import annotations

import asyncio
from typing import Any

from weft.frontend.errors import ProgramError
from weft.graph.codec import decode_datum, decode_value
from weft.graph.ir import Value
from weft.graph.values import Datum
from weft.proto import orchestrator_pb2 as pb

from .events import Emitted, Event, Interrupted, NodeChanged, RunState, event_of
from .faults import error_of

__all__ = ["Journal"]


class Journal:
    """The client's record of a run. Lives on the network loop; `apply` is fed with what the server sends."""

    def __init__(self, program: str) -> None:
        loop = asyncio.get_running_loop()
        self.program = program
        self.run = ""
        self.state: RunState = "running"
        self.started: asyncio.Future[str] = loop.create_future()
        self.outputs: asyncio.Future[tuple[Datum, ...]] = loop.create_future()
        self._loop = loop
        self._known: dict[Value, asyncio.Future[Datum]] = {}
        self.error: ProgramError | None = None
        self._events: list[Event[Any]] = []
        self._news = asyncio.Event()
        self._begun_s = loop.time()
        self.started.add_done_callback(_retrieve)
        self.outputs.add_done_callback(_retrieve)

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.outputs.done()

    def known(self, value: Value) -> asyncio.Future[Datum]:
        """The value as soon as it is there; shared, so shield it from cancellation."""
        if value not in self._known:
            future: asyncio.Future[Datum] = self._loop.create_future()
            future.add_done_callback(_retrieve)
            if self.error is not None:
                future.set_exception(self.error)
            self._known[value] = future
        return self._known[value]

    def apply(self, message: pb.RunEvent) -> None:
        """Take in one message of the server. Raises GraphError for one that is malformed."""
        event = event_of(message)
        if event is not None:
            self._events.append(event)
        if not self.started.done():
            self.run = message.run
            self._begun_s = self._loop.time()
            self.started.set_result(message.run)
        if message.HasField("known"):
            self._know(message.known)
        elif message.HasField("finished"):
            self._finish(message.finished)
        self._wake()

    def emit(self, value: Any) -> None:
        """Note what code of this process says, in any thread."""
        self._loop.call_soon_threadsafe(self._emit, Emitted(self._loop.time() - self._begun_s, value))

    def fail(self, error: ProgramError, state: RunState = "failed") -> None:
        """End the record with an error, unless it has ended already."""
        if self.over:
            return
        self.state = state
        self.error = error
        waiting: list[asyncio.Future[Any]] = [self.started, self.outputs, *self._known.values()]
        for future in waiting:
            if not future.done():
                future.set_exception(error)
        self._wake()

    @property
    def interrupts(self) -> list[Interrupted]:
        """What the run has asked people and they have not answered yet."""
        waiting: dict[int, Interrupted] = {}
        for event in self._events:
            if isinstance(event, Interrupted):
                waiting[event.node] = event
            elif isinstance(event, NodeChanged) and event.phase != "started":
                waiting.pop(event.node, None)
        return [] if self.over else list(waiting.values())

    async def since(self, position: int) -> list[Event[Any]]:
        """The events after the first `position` ones, as soon as there are any; empty when all is over."""
        while len(self._events) <= position and not self.over:
            await self._news.wait()
        return self._events[position:]

    def _emit(self, event: Emitted) -> None:
        if not self.over:
            self._events.append(event)
            self._wake()

    def _know(self, known: pb.Known) -> None:
        future = self.known(decode_value(known.value))
        if not future.done():
            future.set_result(decode_datum(known.datum))

    def _finish(self, result: pb.RunResult) -> None:
        if result.HasField("fault"):
            cancelled = result.fault.code == "cancelled"
            self.fail(error_of(result.fault, self.program), "cancelled" if cancelled else "failed")
        elif not self.over:
            self.state = "done"
            for future in self._known.values():
                future.cancel()  # nobody waits any more: the program has returned
            self.outputs.set_result(tuple(decode_datum(output) for output in result.outputs))

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Mark the exception of a future that nobody may ever wait for as seen."""
    if not future.cancelled():
        future.exception()
