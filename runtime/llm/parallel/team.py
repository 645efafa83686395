"""The other processes that share a model, as rank 0 sees them.

Rank 0 runs the engine. It starts a process for each further rank, which loads its part, and tells it of every
step before it begins the step itself. Tokens are drawn by rank 0 alone, which has the grammars and the seeds;
those that the next step begins with before the host has seen them are broadcast.

A *life line*, the followers' standard input, ends them when rank 0 ends. A thread watches them: when one
ends, or does not get on with a step, it lets rank 0 out of whatever waits for that one, and nothing can be
computed from then on.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Final, TypeVar

import torch

from weft.runtime.cuda import CUDA

from ..errors import ParallelError
from .assignment import Assignment, Build
from .comm import Collective
from .shard import Shard

__all__ = ["Team"]

_log = logging.getLogger(__name__)

_FOLLOWER: Final = "weft.runtime.llm.parallel"
_STDERR: Final = 2
_STEP_S: Final = 60.0  # no step takes so long
_LOOK_S: Final = 1.0  # between two looks at the step that is under way
_NEWS_S: Final = 5.0  # in which it becomes known why something broke
_END_S: Final = 5.0  # for followers that are to end by themselves

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Member:
    """A follower."""

    name: str
    process: subprocess.Popen[bytes]
    line: Connection


class Team:
    """Followers, and what they have in common with this process, which is rank 0."""

    def __init__(self, build: Build, devices: Sequence[torch.device]) -> None:
        """Start a process for each device but the first, and let each `build` its part.

        `build` is pickled: a module's function, or a `partial` of one.
        """
        self._folder = tempfile.TemporaryDirectory(prefix="weft-team-")
        self._meeting = Path(self._folder.name) / "meeting"
        self.comm = Collective(Shard(0, len(devices)), devices[0])
        self._failure: ParallelError | None = None
        self._failed = threading.Event()
        self._listeners: list[Callable[[], None]] = []
        self._lock = threading.Lock()  # of the three above
        self._under_way: tuple[Any, float] | None = None  # the end of a step on CUDA, and since when
        self._closing = False
        self._watcher: threading.Thread | None = None
        self._waker, self._woken = socket.socketpair()
        self._members: list[_Member] = []
        try:
            for rank, device in enumerate(devices[1:], start=1):
                self._members.append(self._start(rank, len(devices), device, build))
        except BaseException:
            self.close()
            raise

    @property
    def pids(self) -> list[int]:
        """The followers' process ids, by rank."""
        return [member.process.pid for member in self._members]

    def gather(self) -> None:
        """Wait until all have loaded their parts. Raises ParallelError with the reason if one cannot."""
        loading: dict[Any, _Member] = {member.line: member for member in self._members}
        while loading:
            for line in wait(list(loading)):
                member = loading.pop(line)
                try:
                    problem = member.line.recv()
                except (EOFError, OSError):
                    problem = _how(member)
                if problem is not None:
                    raise ParallelError(f"{member.name}: {problem}")
        for member in self._members:
            member.line.send(self._meeting)
        self.comm.connect(self._meeting)
        self._watcher = threading.Thread(target=self._watch, name="weft-team", daemon=True)
        self._watcher.start()

    def together(self, order: object, act: Callable[[], T]) -> T:
        """Have the followers carry out `order` while this process does the same by `act`.

        What goes wrong there or here ends the team: the ranks would no longer be at the same point. Raises
        ParallelError then, and ever after.
        """
        self.check()
        try:
            message = pickle.dumps(order, pickle.HIGHEST_PROTOCOL)
            for member in self._members:
                member.line.send_bytes(message)
            result = act()
        except Exception as error:
            self._failed.wait(_NEWS_S if isinstance(error, OSError | RuntimeError) else 0)
            self._fail(ParallelError(f"rank 0 on {self.comm.device}: {error}"))
            self.check(error)
            raise
        self._note()
        return result

    def check(self, cause: BaseException | None = None) -> None:
        """Raise ParallelError if somebody is missing: then what was computed last is worth nothing."""
        if self._failure is not None:
            raise ParallelError(str(self._failure)) from cause

    def on_failure(self, listener: Callable[[], None]) -> None:
        """Call `listener`, on some thread, when the team has failed; at once if it has."""
        with self._lock:
            if self._failure is None:
                self._listeners.append(listener)
                return
        listener()

    def close(self) -> None:
        """End the followers; may be called twice. Engines on the model are to be closed before."""
        self._closing = True
        self._waker.close()
        if self._watcher is not None:
            self._watcher.join()
        self._woken.close()
        for member in self._members:
            member.line.close()
        until = time.monotonic() + _END_S
        for member in self._members:
            try:
                member.process.wait(max(until - time.monotonic(), 0.0))
            except subprocess.TimeoutExpired:
                member.process.kill()
                member.process.wait()
            assert member.process.stdin is not None
            member.process.stdin.close()
        self.comm.abort(_END_S)
        self._folder.cleanup()

    def _start(self, rank: int, size: int, device: torch.device, build: Build) -> _Member:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", _FOLLOWER, str(theirs.fileno())],
                stdin=subprocess.PIPE,
                stdout=_STDERR,  # the standard output may be one that somebody parses
                pass_fds=(theirs.fileno(),),
                env=os.environ | {"PYTHONSAFEPATH": "1"},
                start_new_session=True,
            )
        line = Connection(ours.detach())
        line.send(Assignment(Shard(rank, size), device, torch.get_num_threads(), build))
        return _Member(f"rank {rank} on {device}", process, line)

    def _note(self) -> None:
        """Remember where the step ends that has been begun."""
        if self.comm.device.type == "cuda":
            end = CUDA.Event()
            end.record()
            self._under_way = end, time.monotonic()

    # What follows runs on the watcher's thread.

    def _watch(self) -> None:
        lines: dict[Any, _Member] = {member.line: member for member in self._members}
        while not self._closing:
            for found in wait([self._woken, *lines], _LOOK_S):
                if found in lines and not self._closing:
                    self._lost(lines[found])
                    return
            if self._late() and not self._closing:
                self._fail(ParallelError(f"a step was not done in {_STEP_S:.0f} s"))
                return

    def _late(self) -> bool:
        under_way = self._under_way
        if under_way is None or time.monotonic() - under_way[1] < _STEP_S:
            return False
        return not under_way[0].query()

    def _lost(self, member: _Member) -> None:
        try:
            said = member.line.recv()  # nothing is said in a good end
        except (EOFError, OSError):
            said = _how(member)
        self._fail(ParallelError(f"{member.name}: {said}"))

    def _fail(self, failure: ParallelError) -> None:
        with self._lock:
            if self._failure is not None:
                return
            self._failure = failure
            listeners = list(self._listeners)
        _log.error("the processes that share a model have failed: %s", failure)
        for member in self._members:
            member.process.kill()
        self.comm.abort(0.0)
        self._failed.set()
        for listener in listeners:
            listener()


def _how(member: _Member) -> str:
    """How a process that has hung up has ended."""
    try:
        status = member.process.wait(_END_S)
    except subprocess.TimeoutExpired:
        return "its process does not answer"
    if status < 0:
        return f"its process was killed by {signal.Signals(-status).name}"
    return f"its process ended with status {status}"
