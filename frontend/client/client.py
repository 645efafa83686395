"""`Client`: a server, as programs use it."""

from __future__ import annotations

import asyncio
import contextvars
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from weft.frontend.errors import Unavailable, WeftError
from weft.graph.values import Datum, plain
from weft.proto import orchestrator_pb2 as pb
from weft.runtime.access import Access
from weft.runtime.addresses import SCHEME, speaks_tls
from weft.runtime.config import ConfigError, Settings, client_settings
from weft.runtime.elsewhere import InThreads
from weft.runtime.threads import Threads
from weft.runtime.tls import authorities

from .connection import Connection
from .portal import NETWORK, PROGRAMS
from .run import Run
from .session import Session, Submission, WatchSession, open_session, watch
from .trace_context import Metadata, trace_context

if TYPE_CHECKING:
    from weft.proto.orchestrator_pb2_grpc import OrchestratorAsyncStub

__all__ = ["Client", "connect", "default_client", "use"]

T = TypeVar("T")


class Client:
    """A server, named by its address; without one, that of the configuration, else an embedded runtime.

    The configuration is ``WEFT_SERVER`` or `server` in ``weft.toml``. Nothing is started or connected before
    the first call. May be used from any thread. A forked child connects anew, but only if its parent
    had not connected yet: gRPC does not survive a fork. As a context manager it disconnects at the end.
    """

    def __init__(
        self,
        server: str | None = None,
        *,
        api_key: str | None = None,
        tls_ca: str | os.PathLike[str] | None = None,
    ) -> None:
        """`api_key`: what the server wants to be sent; `tls_ca`: who vouches for it (a file in PEM).

        By default they are the configuration's.
        Raises ConfigError if `tls_ca` is given for a server that is not called by TLS.
        """
        if tls_ca is not None and server is not None and not speaks_tls(server):
            raise ConfigError(f"tls_ca is for a server that speaks TLS: call it {SCHEME}{server}")
        self._server = server
        self._key = api_key
        self._ca = None if tls_ca is None else Path(tls_ca)
        self._access: Access | None = None
        self._address: tuple[int, str] | None = None  # and the process that found it
        self._connection: tuple[int, Connection] | None = None  # and the process that made it

    @classmethod
    def of(cls, server: str, settings: Settings) -> Self:
        """The client of a server, with these settings and no other configuration. Raises ConfigError."""
        client = cls(server)
        client._access = Access(settings.key, authorities(settings.tls_ca))
        return client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *problem: object) -> None:
        self.close()

    @property
    def server(self) -> str:
        """The server's address; an embedded runtime is started for it if need be."""
        if self._server is not None:
            return self._server
        if self._address is None or self._address[0] != os.getpid():
            settings = client_settings()
            self._address = (os.getpid(), settings.server or _start_embedded(settings))
        return self._address[1]

    def call(self, method: Callable[[OrchestratorAsyncStub], Awaitable[T]]) -> T:
        """Call a method of the service `weft.v1.Orchestrator`, as in `call(lambda stub: stub.Describe(...))`.

        Raises ProgramError.
        """
        return NETWORK.call(self._call, method)

    def describe(self) -> pb.ServerInfo:
        """The server's workers, models, indexes and tools."""
        return self.call(lambda stub: stub.Describe(pb.DescribeServerRequest()))

    def runs(self, *, limit: int = 50, state: str = "") -> list[pb.RunInfo]:
        """The latest runs, if wanted only those that are running, done, failed or cancelled."""
        return list(self.call(lambda stub: stub.ListRuns(pb.ListRunsRequest(limit=limit, state=state))).runs)

    def run(self, run: str) -> Run[Any]:
        """A run that goes on at the server, by its id; its result is JSON data. Raises NotFound."""
        session = NETWORK.call(self._watch, run)
        return Run(session, PROGRAMS.start(_outputs, session))

    async def arun(self, run: str) -> Run[Any]:
        """As `run`, for event loops."""
        session = await asyncio.wrap_future(NETWORK.start(self._watch, run))
        return Run(session, PROGRAMS.start(_outputs, session))

    def explain(self, request: pb.ExplainRequest) -> pb.ExplainResponse:
        """A graph as written and after each pass of the server's optimizer."""
        return self.call(lambda stub: stub.Explain(request))

    def invoke(self, submission: Submission) -> tuple[Datum, ...]:
        """Run a graph that needs nothing of this process; its outputs. Ctrl-C cancels the run."""
        connection = self._answering()
        if connection is None:
            connection = NETWORK.call(self._ready)
        try:
            return connection.calls.invoke(submission.request(), submission.program)
        except Unavailable:
            NETWORK.call(connection.ready)  # says so if nobody answers there any more
            raise

    async def ainvoke(self, submission: Submission) -> tuple[Datum, ...]:
        """As `invoke`, for event loops; cancelling it cancels the run."""
        connection = self._answering()
        if connection is None:
            connection = await asyncio.wrap_future(NETWORK.start(self._ready))
        try:
            return await connection.calls.ainvoke(submission.request(), submission.program)
        except Unavailable:
            await asyncio.wrap_future(NETWORK.start(connection.ready))
            raise

    def open(
        self, submission: Submission, home: asyncio.AbstractEventLoop, context: contextvars.Context
    ) -> Future[Session]:
        """Start a run; done when the server has accepted it.

        Its tools see copies of `context`, which is for this run alone; async ones run on the loop `home`.
        """
        return NETWORK.start(self._open, submission, home, context)

    def detach(self, submission: Submission) -> Future[WatchSession]:
        """Start a run that goes on without this client."""
        return NETWORK.start(self._detach, submission, trace_context())

    def close(self) -> None:
        """Disconnect; runs of this client that are not detached are cancelled."""
        if self._connection is not None and self._connection[0] == os.getpid():
            NETWORK.call(self._connection[1].close)
        self._connection = None

    async def _connect(self) -> Connection:
        if self._connection is None or self._connection[0] != os.getpid():
            # An executor takes no work once the main thread has ended; a forked child lacks idle threads.
            starting = InThreads(Threads("weft-starting"))
            address, access = await starting.call(self._found)
            if self._connection is None or self._connection[0] != os.getpid():
                self._connection = (os.getpid(), Connection(address, access))
        return self._connection[1]

    def _found(self) -> tuple[str, Access]:
        """The server's address, and with what it is called. Raises ConfigError."""
        if self._access is None:
            settings = client_settings(server=self._server)
            self._access = Access(self._key or settings.key, authorities(self._ca or settings.tls_ca))
        return self.server, self._access

    def _answering(self) -> Connection | None:
        """The connection of this process, if the server has answered over it."""
        known = self._connection
        return known[1] if known and known[0] == os.getpid() and known[1].answered else None

    async def _ready(self) -> Connection:
        connection = await self._connect()
        await connection.ready()
        return connection

    async def _call(self, method: Callable[[OrchestratorAsyncStub], Awaitable[T]]) -> T:
        return await (await self._connect()).call(method)

    async def _open(
        self, submission: Submission, home: asyncio.AbstractEventLoop, context: contextvars.Context
    ) -> Session:
        return await open_session(await self._connect(), submission, home, context)

    async def _detach(self, submission: Submission, metadata: Metadata) -> WatchSession:
        connection = await self._connect()
        request = submission.request()
        info = await connection.call(lambda stub: stub.Submit(request, metadata=metadata))
        return await watch(connection, info.run, submission.program)

    async def _watch(self, run: str) -> WatchSession:
        return await watch(await self._connect(), run, "")


_default = Client()


def connect(
    server: str | None = None,
    *,
    api_key: str | None = None,
    tls_ca: str | os.PathLike[str] | None = None,
) -> Client:
    """Let all programs use this server from now on; None goes back to configuration or embedded runtime.

    The address is `HOST:PORT`, `grpcs://HOST:PORT` for TLS, or `unix:PATH`. The key, and the file `tls_ca`
    with the certificate of who vouches for the server, are by default the configuration's
    (``WEFT_API_KEY``, ``WEFT_TLS_CA``). Raises Unavailable if the server does not answer, or not by TLS as it
    should, Unauthenticated if it wants another key, and ConfigError if an argument cannot be used.
    """
    client = Client(server, api_key=api_key, tls_ca=tls_ca)
    if server is not None:
        client.describe()
    return use(client)


def use(client: Client) -> Client:
    """Let all programs use this client from now on."""
    global _default
    _default = client
    return client


def default_client() -> Client:
    """The server that programs use unless they are told otherwise."""
    return _default


async def _outputs(session: WatchSession) -> Any:
    outputs = [plain(output) for output in await asyncio.wrap_future(session.outputs())]
    return outputs[0] if len(outputs) == 1 else outputs


def _start_embedded(settings: Settings) -> str:
    from . import embedded  # only here: it is not needed where a server is named

    try:
        return embedded.start(settings)
    except embedded.StartupError as problem:
        raise WeftError(f"the embedded runtime did not start: {problem}") from None
