"""One process of a server, as its parent sees it.

Every such process has the *life line* as its standard input: a pipe that nobody writes to, whose other end
only the parent holds. When the parent ends, in whatever way, the life line closes, and the processes end too.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

__all__ = ["Child", "LifeLine", "ProcessSpec", "start_janitor"]

_log = logging.getLogger(__name__)

_LINES_KEPT = 100
_READ_SIZE = 1 << 16  # bytes
_KILLED_WITHIN_S = 1.0
_LAST_LINES_S = 0.5  # then a process that the child started holds its output open


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """How to start a Python process: `arguments` follow ``python -P``."""

    name: str
    """How people read of it, e.g. "worker 'reference'"."""
    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables in addition to the parent's."""
    announces: bool = False
    """Whether the first line of its standard output is for the parent, and no other's."""


class LifeLine:
    """The pipe whose closing tells the processes that their parent has ended."""

    def __init__(self) -> None:
        self.read_end, self._write_end = os.pipe()
        self._open = True

    def close(self) -> None:
        """Let go. A forked child of the parent must call it too: it holds a copy."""
        if self._open:
            self._open = False
            os.close(self.read_end)
            os.close(self._write_end)


class Child:
    """A running process. What it writes is kept until `forward_lines`, and goes to stderr from then on."""

    def __init__(self, spec: ProcessSpec, process: Process) -> None:
        self.spec = spec
        self._process = process
        self._lines: deque[str] = deque(maxlen=_LINES_KEPT)
        self._forwarding = False
        self._announcement: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        if not spec.announces:
            self._announcement.set_result(None)
        assert process.stdout is not None
        assert process.stderr is not None
        self._pumps = (
            asyncio.create_task(self._read_output(process.stdout)),
            asyncio.create_task(_pump(process.stderr, self._on_line)),
        )

    @classmethod
    async def start(cls, spec: ProcessSpec, life_line: LifeLine) -> Self:
        """Start the process in a session of its own, so that Ctrl-C reaches only the parent."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            *spec.arguments,
            stdin=life_line.read_end,
            stdout=PIPE,
            stderr=PIPE,
            env={**os.environ, "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1", **spec.environment},
            start_new_session=True,
        )
        return cls(spec, process)

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process has not ended."""
        return self._process.returncode is None

    @property
    def status(self) -> int | None:
        """The exit status of a process that has ended; negative: the signal that killed it."""
        return self._process.returncode

    async def wait(self) -> str:
        """Wait for the end; how it ended, for people."""
        status = await self._process.wait()
        return (
            f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        )

    async def announcement(self) -> str | None:
        """The first line of its standard output; None if it ends without one, or announces nothing."""
        return await asyncio.shield(self._announcement)

    async def last_line(self) -> str:
        """The last line that an ended process wrote to its standard error, or how it ended."""
        how = await self.wait()
        await asyncio.wait(self._pumps, timeout=_LAST_LINES_S)
        return next((line for line in reversed(self._lines) if line.strip()), how)

    def forward_lines(self) -> None:
        """Write the lines so far, and all that follow, to this process's standard error."""
        self._forwarding = True
        while self._lines:
            self._write(self._lines.popleft())

    async def stop(self, within_s: float) -> None:
        """Ask the process to end; after `within_s` seconds kill it.

        It has been waited for on return, unless the system cannot end it, as it waits for a device.
        """
        if self.running:
            self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), within_s)
        except TimeoutError:
            self._process.kill()
            await self._wait_for_its_death()
        await asyncio.wait(self._pumps, timeout=_LAST_LINES_S)
        for pump in self._pumps:
            pump.cancel()

    async def _wait_for_its_death(self) -> None:
        try:
            await asyncio.wait_for(self._process.wait(), _KILLED_WITHIN_S)
        except TimeoutError:
            _log.error(
                "%s (process %d) has been killed and does not end: it waits for a disk or another device "
                "that does not answer",
                self.spec.name,
                self.pid,
            )

    async def _read_output(self, stream: asyncio.StreamReader) -> None:
        await _pump(stream, self._on_output)
        if not self._announcement.done():
            self._announcement.set_result(None)

    def _on_output(self, line: str) -> None:
        if self._announcement.done():
            self._on_line(line)
        else:
            self._announcement.set_result(line)

    def _on_line(self, line: str) -> None:
        if self._forwarding:
            self._write(line)
        else:
            self._lines.append(line)

    def _write(self, line: str) -> None:
        print(f"{self.spec.name}: {line}", file=sys.stderr, flush=True)


async def start_janitor(folder: Path, life_line: LifeLine) -> Process:
    """A process that removes `folder` once the life line closes, even if the parent was killed."""
    return await asyncio.create_subprocess_exec(
        "/bin/sh",
        "-c",
        'read -r _; rm -rf -- "$0"',
        str(folder),
        stdin=life_line.read_end,
        stdout=DEVNULL,
        stderr=DEVNULL,
        start_new_session=True,
    )


async def _pump(stream: asyncio.StreamReader, sink: Callable[[str], None]) -> None:
    rest = b""
    while chunk := await stream.read(_READ_SIZE):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            sink(line.decode(errors="replace"))
    if rest:
        sink(rest.decode(errors="replace"))
