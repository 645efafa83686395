"""How many files and connections this process may hold, which a server must not run out of unnoticed."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
from typing import Final, NoReturn

__all__ = ["allow_many_files", "watch_files"]

_log = logging.getLogger(__name__)

_WANTED: Final = 65_536  # a connection takes one
_SPARE: Final = 8  # with fewer, as good as none is left
_EVERY_S: Final = 1.0


def allow_many_files() -> None:
    """Raise the number of files that this process may hold, as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED if hard == resource.RLIM_INFINITY else min(_WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def watch_files() -> NoReturn:
    """Warn whenever this process has come to hold as many files as it may; gRPC and uvloop say nothing."""
    told = False
    while True:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        short = limit != resource.RLIM_INFINITY and _next() >= limit - _SPARE
        if short and not told:
            _log.warning(
                "nearly all of the %d files and connections that this process may hold are open: new "
                "connections wait until others end; raise the limit (`ulimit -n`, LimitNOFILE= of systemd)",
                limit,
            )
        told = short
        await asyncio.sleep(_EVERY_S)


def _next() -> float:
    """The lowest number that no open file has, which the next one would get."""
    try:
        number = os.open(os.devnull, os.O_RDONLY)
    except OSError:
        return float("inf")
    os.close(number)
    return number
