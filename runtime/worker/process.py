"""The life of a worker process: configuration, start, life line, end."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Final

from pydantic import ValidationError

from weft.runtime.config import WorkerConfig

from .build import build_engines
from .catalog import Catalog
from .engines.base import StartError
from .host import Host

__all__ = ["main", "run"]

_log = logging.getLogger(__name__)

_STOP_WITHIN_S: Final = 1.5
_FAILED: Final = 2  # exit status


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a worker until its standard input closes or a signal asks it to end; returns the exit status."""
    parser = argparse.ArgumentParser(prog="weft.runtime.worker", description="A worker process of weft.")
    parser.add_argument(
        "--config", required=True, help="a JSON document; see weft.runtime.config.WorkerConfig"
    )
    text = parser.parse_args(arguments).config
    try:
        config = _read_config(text)
    except ValueError as problem:
        return _fail(f"configuration: {problem}")
    logging.basicConfig(
        level=config.log_level.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    try:
        # asyncio.run would wait for threads that nothing can stop.
        asyncio.new_event_loop().run_until_complete(run(config))
    except StartError as problem:
        return _fail(str(problem))
    return 0


def _read_config(text: str) -> WorkerConfig:
    """Raises ValueError that names the first wrong key."""
    try:
        return WorkerConfig.model_validate(json.loads(text))
    except json.JSONDecodeError as problem:
        raise ValueError(f"--config is no JSON: {problem}") from None
    except ValidationError as problem:
        error = problem.errors()[0]
        key = ".".join(map(str, error["loc"])) or "--config"
        raise ValueError(f"{key}: {error['msg']}") from None


async def run(config: WorkerConfig) -> None:
    """Serve until standard input closes or SIGTERM or SIGINT arrives. Raises StartError."""
    end = asyncio.Event()
    _end_on_signals(end)
    _end_with_standard_input(end)
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


def _end_on_signals(end: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end.set)


def _end_with_standard_input(end: asyncio.Event) -> None:
    """Set `end` when standard input closes: whoever started this process is gone, or wants it to end."""
    loop = asyncio.get_running_loop()

    def watch() -> None:
        # os.read, because a thread inside sys.stdin would keep the interpreter from shutting down.
        while os.read(0, 4096):
            pass
        if not loop.is_closed():
            loop.call_soon_threadsafe(end.set)

    threading.Thread(target=watch, name="weft-life-line", daemon=True).start()


def _fail(message: str) -> int:
    print(f"weft worker: {message}", file=sys.stderr)
    return _FAILED
