"""The life of an orchestrator process: configuration, start, life line, end."""

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

from weft.runtime.config import Settings

from .server import AddressError, Server

__all__ = ["main", "run"]

_STOP_WITHIN_S: Final = 1.5
_FAILED: Final = 2  # exit status


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until standard input closes or a signal asks to end; returns the exit status."""
    parser = argparse.ArgumentParser(prog="weft.runtime.orchestrator", description="weft's orchestrator.")
    parser.add_argument("--config", required=True, help="a JSON document; see weft.runtime.config.Settings")
    text = parser.parse_args(arguments).config
    try:
        settings = Settings.model_validate_json(text)
    except ValidationError as problem:
        error = problem.errors()[0]
        key = ".".join(map(str, error["loc"])) or "--config"
        return _fail(f"configuration: {key}: {error['msg']}")
    logging.basicConfig(
        level=settings.log_level.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    try:
        asyncio.run(run(settings))
    except (AddressError, ValueError) as problem:
        return _fail(str(problem))
    return 0


async def run(settings: Settings) -> None:
    """Serve, say where on standard output as one line of JSON, and end when asked to.

    Raises AddressError, and ValueError for settings that do not fit.
    """
    end = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end.set)
    _end_with_standard_input(end)
    server = Server(settings)
    print(json.dumps({"listening": await server.start()}), flush=True)
    await end.wait()
    await asyncio.wait_for(server.stop(), _STOP_WITHIN_S)


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
    print(f"weft orchestrator: {message}", file=sys.stderr)
    return _FAILED
