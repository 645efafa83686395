"""One run and the stream that carries it."""

from __future__ import annotations

import asyncio
import contextvars
import copy
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

from grpc import aio

from weft.frontend.errors import ProgramError, RunCancelled, ToolError
from weft.graph.codec import encode_graph, encode_value
from weft.graph.errors import GraphError
from weft.graph.ir import Graph, Value
from weft.graph.values import Datum
from weft.proto import graph_pb2, value_pb2
from weft.proto import orchestrator_pb2 as pb
from weft.runtime.outbox import Outbox
from weft.runtime.outer_run import OUTER, OuterRun

from .connection import Connection
from .emitting import emit_into
from .events import Event
from .faults import error_of_status
from .journal import Journal
from .portal import NETWORK
from .toolbox import ClientTool, Toolbox
from .trace_context import trace_context

__all__ = ["Session", "Submission", "WatchSession", "open_session", "watch"]

_TOGETHER: Final = 2**16  # bytes of requests that share a message
_LOST: Final = (
    "Internal error from Core"  # gRPC's words if the server ends a stream that is written to just then
)

T = TypeVar("T")


class _Call(Protocol):
    """A call that answers with a stream of events."""

    def read(self) -> Awaitable[Any]: ...

    def cancel(self) -> bool: ...


@dataclass(frozen=True)
class Submission:
    """A graph to run, and how."""

    program: str
    graph: graph_pb2.Graph
    inputs: Mapping[str, str] = field(default_factory=dict)  # JSON text by name
    stream: tuple[Value, ...] = ()
    """Texts whose pieces are wanted."""
    tools: Mapping[str, ClientTool] = field(default_factory=dict)
    """What this process answers for; may grow with the run."""
    announced: tuple[str, ...] = ()
    """The names of all tools that the run may call here."""
    grows: bool = False
    deadline_s: float = 0.0  # 0: none
    namespace: str = ""
    priority: int = 0
    quiet: bool = True
    """Whether nobody will look at what happens in the run."""
    follow: bool = False
    """Whether the texts that have a name are wanted, too, and what tools are given and give."""
    batch: str = ""
    """Runs of one batch compute what they have in common once."""

    def request(self) -> pb.SubmitRequest:
        """The message; of what a program on the server starts, that it belongs to the program's run."""
        outer = OUTER.get() or OuterRun("", "", 0)
        return pb.SubmitRequest(
            graph=self.graph,
            inputs=self.inputs,
            deadline_s=self.deadline_s,
            namespace=self.namespace or outer.namespace,
            priority=self.priority or outer.priority,
            quiet=self.quiet,
            batch=self.batch,
            parent=outer.id,
        )

    def start(self) -> pb.RunRequest:
        """The first message of a stream."""
        return pb.RunRequest(
            start=pb.Start(
                submit=self.request(),
                grows=self.grows,
                stream=[encode_value(value) for value in self.stream],
                tools=self.announced,
                follow=self.follow,
            )
        )


class WatchSession:
    """A run as it is watched from outside. Methods may be called from any thread."""

    def __init__(self, connection: Connection, journal: Journal) -> None:
        self.connection = connection
        self.journal = journal
        self._pump: asyncio.Task[None] | None = None

    @property
    def run(self) -> str:
        """The id that the server gave the run."""
        return self.journal.run

    def outputs(self) -> Future[tuple[Datum, ...]]:
        """What the run returns; raises ProgramError when it fails."""
        return NETWORK.start(_shielded, self.journal.outputs)

    async def events(self) -> AsyncIterator[Event[Any]]:
        """What happens in the run, until it is over. On any event loop."""
        position = 0
        while events := await asyncio.wrap_future(NETWORK.start(self.journal.since, position)):
            position += len(events)
            for event in events:
                yield event

    async def cancel(self) -> None:
        """Cancel the run on the server; done when the server has. On the network loop."""
        request = pb.CancelRunRequest(run=self.run)
        await self.connection.call(lambda stub: stub.Cancel(request))

    def abandon(self) -> None:
        """Stop listening; a run that belongs to the stream is cancelled by that."""
        NETWORK.loop.call_soon_threadsafe(self._end)

    async def listen(self, call: _Call) -> None:
        """Take in what the server sends from now on; done when it has accepted. On the network loop."""
        self._pump = asyncio.get_running_loop().create_task(self._listen(call))
        try:
            await asyncio.shield(self.journal.started)
        except asyncio.CancelledError:
            self._end()
            raise

    def _end(self) -> None:
        if self._pump is not None:
            self._pump.cancel()

    async def _listen(self, call: _Call) -> None:
        try:
            while isinstance(message := await self._read(call), pb.RunEvents):
                for event in message.events:
                    self._take(event)
        except aio.AioRpcError as error:
            self._fail(error_of_status(error, self.connection.address, self.journal.program))
        except GraphError as error:
            self._fail(ProgramError(f"the server sent what cannot be read: {error}"))
        except asyncio.CancelledError:
            call.cancel()
            self._fail(RunCancelled("the run was abandoned", code="cancelled", program=self.journal.program))
            raise
        else:
            self._fail(ProgramError("the server closed the stream of the run before its end"))

    async def _read(self, call: _Call) -> Any:
        """The next message. Why there is none, if gRPC has lost that, the next call to the server says."""
        try:
            return await call.read()
        except aio.AioRpcError as error:
            if error.details() == _LOST:
                await self.connection.stub.Describe(pb.DescribeServerRequest())
            raise

    def _take(self, message: pb.RunEvent) -> None:
        self.journal.apply(message)

    def _fail(self, error: ProgramError) -> None:
        self.journal.fail(error, "cancelled" if isinstance(error, RunCancelled) else "failed")


class Session(WatchSession):
    """A run over a stream of its own: it may grow, and its tools may run here. It ends with the stream."""

    def __init__(
        self, connection: Connection, journal: Journal, toolbox: Toolbox, start: pb.RunRequest
    ) -> None:
        super().__init__(connection, journal)
        self._toolbox = toolbox
        self._requests: Outbox[pb.RunRequest] = Outbox()
        self._requests.put(start)
        self._answers: set[asyncio.Task[None]] = set()

    def extend(
        self,
        increment: Graph,
        wanted: Sequence[Value],
        stream: Sequence[Value] = (),
        withdrawn: Sequence[Value] = (),
    ) -> None:
        """Add to the graph of a growing run, ask for values of it, and say which nobody waits for now."""
        message = pb.Extend(
            increment=encode_graph(increment),
            wanted=[encode_value(value) for value in wanted],
            stream=[encode_value(value) for value in stream],
            withdrawn=[encode_value(value) for value in withdrawn],
        )
        self._send(pb.RunRequest(extend=message))

    def value(self, value: Value) -> Future[Datum]:
        """A value that was asked for; raises ProgramError when the run fails."""
        return NETWORK.start(self._value, value)

    def finish(self, result: str, fault: value_pb2.Fault | None = None) -> None:
        """Say that a growing program has returned or raised."""
        self._send(pb.RunRequest(finish=pb.Finish(result=result, fault=fault)))

    async def requests(self) -> AsyncIterator[pb.RunRequests]:
        """What goes to the server."""
        while requests := await self._requests.take():
            for message in _messages(requests):
                yield message

    def _send(self, request: pb.RunRequest) -> None:
        NETWORK.loop.call_soon_threadsafe(self._requests.put, request)

    async def _value(self, value: Value) -> Datum:
        return await _shielded(self.journal.known(value))

    def _take(self, message: pb.RunEvent) -> None:
        super()._take(message)
        if message.HasField("tool"):
            task = asyncio.get_running_loop().create_task(self._answer(message.tool))
            self._answers.add(task)
            task.add_done_callback(self._answers.discard)
        if self.journal.over:
            self._end_of_run()

    def _fail(self, error: ProgramError) -> None:
        super()._fail(error)
        self._end_of_run()

    def _end_of_run(self) -> None:
        error = self.journal.error
        if isinstance(error, ToolError) and error.__cause__ is None:
            error.__cause__ = self._toolbox.cause_of(error)
        self._requests.close()
        for task in self._answers:
            task.cancel()

    async def _answer(self, call: pb.ToolCall) -> None:
        self._requests.put(pb.RunRequest(tool=await self._toolbox.answer(call)))


async def open_session(
    connection: Connection,
    submission: Submission,
    home: asyncio.AbstractEventLoop,
    context: contextvars.Context,
) -> Session:
    """Start a run; done when the server has accepted it. Raises ProgramError. On the network loop.

    `context`: what tools are to see, for this run alone.
    """
    await connection.ready()
    journal = Journal(submission.program)
    context.run(emit_into, journal)
    toolbox = Toolbox(submission.tools, home, context)
    session = Session(connection, journal, toolbox, submission.start())
    metadata = context.run(trace_context)
    await session.listen(connection.stub.Run(session.requests(), metadata=metadata))
    return session


async def watch(connection: Connection, run: str, program: str) -> WatchSession:
    """Follow a run from its beginning. Raises ProgramError. On the network loop."""
    await connection.ready()
    session = WatchSession(connection, Journal(program))
    await session.listen(connection.stub.Watch(pb.WatchRequest(run=run)))
    return session


def _messages(requests: Iterable[pb.RunRequest]) -> Iterator[pb.RunRequests]:
    """Requests together, but large ones alone: servers refuse messages beyond a size."""
    together, size = pb.RunRequests(), 0
    for request in requests:
        size += request.ByteSize()
        if together.requests and size > _TOGETHER:
            yield together
            together, size = pb.RunRequests(), request.ByteSize()
        together.requests.append(request)
    yield together


async def _shielded(future: asyncio.Future[T]) -> T:
    """What a shared future gives; each waiter raises an error of its own, with a traceback of its own."""
    try:
        return await asyncio.shield(future)
    except ProgramError as error:
        raise copy.copy(error) from error.__cause__
