"""The life of an orchestrator process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from weft.runtime.config import Settings
from weft.runtime.files import allow_many_files, watch_files
from weft.runtime.process import end_of_process, run_process, stop
from weft.runtime.telemetry.collector import open_traces

from .journal_store import JournalError
from .orchestrator import Orchestrator
from .server import AddressError, Server

if TYPE_CHECKING:
    from weft.runtime.http.server import HttpServer
    from weft.runtime.telemetry.traces import Traces

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
    allow_many_files()
    watching = asyncio.create_task(watch_files())
    server = Server(settings)
    traces = open_traces(settings)
    if traces is not None:
        server.orchestrator.watchers.append(traces.take)
    doors = _doors(settings, server.orchestrator, traces)
    where = {name: await door.start() for name, door in doors.items()}
    print(json.dumps({"listening": await server.start(), **where}), flush=True)
    await end.wait()
    watching.cancel()
    await stop(server.stop(), *(door.stop() for door in doors.values()))
    if traces is not None:
        await stop(traces.stop())


def _doors(settings: Settings, orchestrator: Orchestrator, traces: Traces | None) -> dict[str, HttpServer]:
    """What is served over HTTP, by the names of the settings that say where."""
    if settings.http is None and settings.metrics is None:
        return {}
    from weft.runtime.http.app import build_app, metrics_app  # only here: most servers do without
    from weft.runtime.http.server import HttpServer
    from weft.runtime.telemetry.metrics import Metrics

    metrics = Metrics(orchestrator, traces)
    doors = {}
    if settings.http is not None:
        app = build_app(orchestrator, settings.key, metrics, exposed=settings.metrics is None)
        doors["http"] = HttpServer(settings.http, app)
    if settings.metrics is not None:
        doors["metrics"] = HttpServer(settings.metrics, metrics_app(metrics), "--metrics")
    return doors
