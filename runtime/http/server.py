"""The HTTP server, in the orchestrator's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from weft.runtime.orchestrator.server import bind
from weft.runtime.tls import Certificate

__all__ = ["HttpServer"]

_BACKLOG: Final = 4096  # connections that wait to be accepted
_AT_ONCE: Final = 16  # of them are accepted before the event loop sees to everything else
_KEEP_ALIVE_S: Final = 75
_GRACE_S: Final = 0.5  # for answers that are under way when the server stops


class HttpServer:
    """Serves an application where the command's `option` says. Belongs to one event loop."""

    def __init__(
        self, address: str, app: ASGIApp, option: str = "--http", *, certificate: Certificate | None = None
    ) -> None:
        """With a `certificate` it speaks HTTPS."""
        self._address = address
        self._option = option
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            backlog=_AT_ONCE,
            timeout_keep_alive=_KEEP_ALIVE_S,
            ssl_context_factory=None if certificate is None else lambda *_: certificate.https_context(),
        )
        self._server = _Server(config)
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """Listen and serve; the address, with the port that was taken. Raises AddressError."""
        listener = bind(self._address, self._option)
        self._serving = asyncio.create_task(self._server.serve([listener]), name="http")
        while not self._server.started and not self._serving.done():
            await asyncio.sleep(0)
        if self._serving.done():
            self._serving.result()
        listener.listen(_BACKLOG)
        return f"{self._address.rpartition(':')[0]}:{listener.getsockname()[1]}"

    async def stop(self) -> None:
        """Take no more requests, give those under way a moment, and hang up."""
        self._server.should_exit = True
        if self._serving is not None:
            await asyncio.wait({self._serving}, timeout=_GRACE_S)
            for connection in list(self._server.server_state.connections):
                connection.transport.abort()
            await self._serving


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the process."""
        yield
