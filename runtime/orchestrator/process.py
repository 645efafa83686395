"""The life of an orchestrator process."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from weft.runtime.config import Settings
from weft.runtime.process import end_of_process, run_process, stop

from .journal import JournalError
from .server import AddressError, Server

if TYPE_CHECKING:
    from weft.runtime.http.server import HttpServer

__all__ = ["main", "run"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until standard input closes or a signal asks to end; returns the exit status."""
    expected = (AddressError, JournalError, ValueError)
    return run_process("orchestrator", Settings, run, expected, arguments)


async def run(settings: Settings) -> None:
    """Serve, say where on standard output as one line of JSON, and end when asked to.

    Raises AddressError, JournalError, and ValueError for settings that do not fit.
    """
    end = end_of_process()
    server = Server(settings)
    http = _http_server(settings, server)
    where = {"http": await http.start()} if http else {}
    print(json.dumps({"listening": await server.start(), **where}), flush=True)
    await end.wait()
    await stop(server.stop(), *([http.stop()] if http else []))


def _http_server(settings: Settings, server: Server) -> HttpServer | None:
    if settings.http is None:
        return None
    from weft.runtime.http.server import HttpServer  # only here: most servers do without

    return HttpServer(settings.http, settings, server.orchestrator)
