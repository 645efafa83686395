"""What the processes of a server have in common: configuration, life line, signals, exit status."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, NoReturn, TypeVar

import uvloop
from pydantic import ValidationError

from .config import OrchestratorConfig, WorkerConfig

__all__ = ["collect_seldom", "end_of_process", "leave", "run_process", "stop"]

_log = logging.getLogger(__name__)

_FAILED: Final = 2  # exit status
_STOP_WITHIN_S: Final = 1.5
_COLLECT_AFTER: Final = 50_000
"""New objects: of many runs most are gone by then, and what is left is looked at a few times less."""

Config = TypeVar("Config", OrchestratorConfig, WorkerConfig)


def run_process(
    name: str,
    schema: type[Config],
    serve: Callable[[Config], Coroutine[Any, Any, None]],
    expected: tuple[type[Exception], ...],
    arguments: Sequence[str] | None = None,
) -> int:
    """Read the argument ``--config``, a JSON document of `schema`, and `serve`; returns the exit status.

    A wrong configuration, and an exception that `expected` names, become one line on standard error.
    What `serve` leaves running is not waited for, nor cancelled: the process is to `leave` with the status.
    """
    parser = argparse.ArgumentParser(prog=f"weft.runtime.{name}", description=f"weft's {name} process.")
    document = f"a JSON document; see weft.runtime.config.{schema.__name__}"
    parser.add_argument("--config", required=True, help=document)
    try:
        config = schema.model_validate_json(parser.parse_args(arguments).config)
    except ValidationError as problem:
        error = problem.errors()[0]
        key = ".".join(map(str, error["loc"])) or "--config"
        return _fail(name, f"configuration: {key}: {error['msg']}")
    logging.basicConfig(
        level=config.log_level.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    collect_seldom()
    try:
        uvloop.new_event_loop().run_until_complete(serve(config))
    except expected as problem:
        return _fail(name, str(problem))
    return 0


def leave(status: int) -> NoReturn:
    """End the process now.

    Threads that nothing can stop (a tool, a step of a model) must not hold it, and the tasks of calls that
    are about to end must not be cancelled, as an event loop that closes does: gRPC writes tracebacks then.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


async def stop(*stopping: Awaitable[None]) -> None:
    """Let the parts of a process stop, for a moment."""
    try:
        await asyncio.wait_for(asyncio.gather(*stopping), _STOP_WITHIN_S)
    except TimeoutError:
        _log.warning("some work could not be stopped in time; it is abandoned")


def collect_seldom() -> None:
    """Let the garbage collector leave alone what has been imported, and look at the rest less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER)


def end_of_process() -> asyncio.Event:
    """An event of the running loop: set by SIGTERM and SIGINT, and when standard input closes.

    The latter says that whoever started this process is gone, or wants it to end.
    """
    end = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end.set)

    def watch() -> None:
        # os.read, because a thread inside sys.stdin would keep the interpreter from shutting down.
        while os.read(0, 4096):
            pass
        if not loop.is_closed():
            loop.call_soon_threadsafe(end.set)

    threading.Thread(target=watch, name="weft-life-line", daemon=True).start()
    return end


def _fail(name: str, message: str) -> int:
    print(f"weft {name}: {message}", file=sys.stderr)
    return _FAILED
