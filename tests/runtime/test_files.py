"""That a process has as good as no room for files is said; closed standard input is no want of room."""

from __future__ import annotations

import subprocess
import sys

import pytest

WATCH = """
import asyncio, os, resource
from weft.runtime.files import watch_files

async def watched():
    {first}
    watching = asyncio.create_task(watch_files())
    await asyncio.sleep(0)
    watching.cancel()

asyncio.run(watched())
"""


@pytest.mark.parametrize(
    ("first", "warnings"),
    [("os.close(0)", 0), ("resource.setrlimit(resource.RLIMIT_NOFILE, (12, 4096))", 1)],
)
def test_want_of_room_is_told_and_nothing_else(first: str, warnings: int) -> None:
    ran = subprocess.run(
        [sys.executable, "-P", "-c", WATCH.format(first=first)], capture_output=True, text=True, check=True
    )
    assert ran.stderr.count("files and connections that this process may hold are open") == warnings
