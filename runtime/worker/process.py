"""The life of a worker process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from weft.runtime.access import KEY, Access
from weft.runtime.config import ConfigError, WorkerConfig
from weft.runtime.llm.errors import EngineClosedError, ParallelError
from weft.runtime.process import end_of_process, run_process, stop
from weft.runtime.tls import authorities, certificate_of

from .build import build_engines
from .catalog import Catalog
from .engines.base import StartError
from .host import Host

__all__ = ["main", "run"]

_REPORT_S: Final = 0.5  # in which the requests of an engine that failed are told so


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a worker until its standard input closes or a signal asks it to end; returns the exit status."""
    expected = (ConfigError, StartError, EngineClosedError, ParallelError)
    return run_process("worker", WorkerConfig, run, expected, arguments)


async def run(config: WorkerConfig) -> None:
    """Serve until standard input closes or SIGTERM or SIGINT arrives.

    Raises ConfigError and StartError, and EngineClosedError or ParallelError when an engine or what shares
    a model has ended: then whoever started this process is to start it again.
    """
    end = end_of_process()
    key = os.environ.get(KEY) or None  # for the server, too, an empty variable is none
    access = Access(key, authorities(config.tls_ca))
    certificate = certificate_of(config)
    catalog = Catalog(build_engines(config, access))
    host = Host(
        catalog,
        listen=config.listen,
        orchestrator=config.orchestrator,
        advertise=config.advertise or "",
        worker_id=config.worker_id,
        access=access,
        certificate=certificate,
    )
    starting = asyncio.ensure_future(host.start())
    ending = asyncio.ensure_future(end.wait())
    await asyncio.wait((starting, ending), return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        return  # a model may still be loading, which nothing can interrupt
    await starting
    failing = asyncio.ensure_future(catalog.fail())
    await asyncio.wait((failing, ending), return_when=asyncio.FIRST_COMPLETED)
    if failing.done():
        await asyncio.sleep(_REPORT_S)
    await stop(host.stop())
    failing.cancel()  # to no effect if it is done
    with suppress(asyncio.CancelledError):
        await failing
