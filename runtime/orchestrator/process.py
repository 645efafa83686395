"""The life of an orchestrator process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Final

import uvloop

from weft.runtime.config import Settings
from weft.runtime.process import end_of_process, run_process

from .server import AddressError, Server

__all__ = ["main", "run"]

_STOP_WITHIN_S: Final = 1.5


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until standard input closes or a signal asks to end; returns the exit status."""
    expected = (AddressError, ValueError)
    return run_process(
        "orchestrator", Settings, lambda settings: uvloop.run(run(settings)), expected, arguments
    )


async def run(settings: Settings) -> None:
    """Serve, say where on standard output as one line of JSON, and end when asked to.

    Raises AddressError, and ValueError for settings that do not fit.
    """
    end = end_of_process()
    server = Server(settings)
    print(json.dumps({"listening": await server.start()}), flush=True)
    await end.wait()
    await asyncio.wait_for(server.stop(), _STOP_WITHIN_S)
