"""The life of a worker process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

import uvloop

from weft.runtime.config import WorkerConfig
from weft.runtime.process import end_of_process, run_process

from .build import build_engines
from .catalog import Catalog
from .engines.base import StartError
from .host import Host

__all__ = ["main", "run"]

_log = logging.getLogger(__name__)

_STOP_WITHIN_S: Final = 1.5


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a worker until its standard input closes or a signal asks it to end; returns the exit status."""

    def serve(config: WorkerConfig) -> None:
        # asyncio.run would wait for threads that nothing can stop.
        uvloop.new_event_loop().run_until_complete(run(config))

    return run_process("worker", WorkerConfig, serve, (StartError,), arguments)


async def run(config: WorkerConfig) -> None:
    """Serve until standard input closes or SIGTERM or SIGINT arrives. Raises StartError."""
    end = end_of_process()
    host = Host(
        Catalog(build_engines(config)),
        listen=config.listen,
        orchestrator=config.orchestrator,
        advertise=config.advertise,
        worker_id=config.worker_id,
    )
    starting = asyncio.ensure_future(host.start())
    ending = asyncio.ensure_future(end.wait())
    await asyncio.wait((starting, ending), return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        return  # a model may still be loading, which nothing can interrupt
    await starting
    await ending
    try:
        await asyncio.wait_for(host.stop(), _STOP_WITHIN_S)
    except TimeoutError:
        _log.warning("some work could not be stopped in time; it is abandoned")
