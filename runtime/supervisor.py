"""Starts the processes of a server, keeps them alive, and ends them."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import tempfile
import time
from asyncio.subprocess import Process
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import grpc

from weft.proto import orchestrator_pb2, orchestrator_pb2_grpc

from .access import Access, keyed
from .addresses import is_wildcard, with_host
from .channels import blocking_channel
from .elsewhere import InThreads
from .processes import Child, LifeLine, ProcessSpec, start_janitor
from .threads import Threads

__all__ = ["Layout", "RestartBudget", "StartupError", "Supervisor"]

log = logging.getLogger(__name__)

_STOP_WITHIN_S: Final = 2.5
_HEAD_START_S: Final = 1.0  # of an orchestrator that stops, before its workers do
_POLL_S: Final = 0.1
_LONGEST_FOLDER: Final = 80  # characters; the path of a Unix socket in it may have 107


class StartupError(RuntimeError):
    """A process of the server could not start; the message is its own."""


class Layout(Protocol):
    """Which processes make up a server."""

    @property
    def key(self) -> str | None:
        """What the orchestrator wants to be sent."""

    def inside(self, folder: Path) -> str:
        """Where the server's own processes reach the orchestrator; `folder`: as below."""

    def orchestrator(self, folder: Path, where: Mapping[str, str] | None = None) -> ProcessSpec:
        """The orchestrator, which announces ``{"listening": address}`` on stdout; `folder`: for its files.

        `where`: what one has announced in whose place this one is to be.
        """

    def workers(self, folder: Path) -> Sequence[ProcessSpec]:
        """The workers, which join the orchestrator; `folder` is for their sockets."""


class RestartBudget:
    """How often a process may be started again: at most `limit` times in `window_s` seconds. Pure."""

    limit = 5
    window_s = 60.0
    first_s = 0.1

    def __init__(self) -> None:
        self._restarts: deque[float] = deque()

    def spend(self, now: float) -> float | None:
        """Seconds to wait before the restart, doubled with each one lately; None when there were too many."""
        while self._restarts and self._restarts[0] <= now - self.window_s:
            self._restarts.popleft()
        if len(self._restarts) >= self.limit:
            return None
        self._restarts.append(now)
        return self.first_s * 2.0 ** (len(self._restarts) - 1)


class Supervisor:
    """The processes of one server. All methods belong to one event loop."""

    def __init__(self, layout: Layout, progress: Callable[[str], None] = lambda message: None) -> None:
        self._layout = layout
        self._progress = progress
        self._children: dict[str, Child] = {}
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._janitor: Process | None = None
        self.life_line = LifeLine()
        self.folder = _private_folder()
        self.inside = layout.inside(self.folder)
        """Where this process reaches the orchestrator, once it has started."""
        self.address = ""
        """Where clients reach the orchestrator, once it has started."""
        self.http = ""
        """Where it speaks HTTP; empty: nowhere."""
        self.metrics = ""
        """Where it answers Prometheus; empty: nowhere, or where it speaks HTTP."""

    @property
    def pids(self) -> dict[str, int]:
        """The process ids, by the processes' names."""
        return {name: child.pid for name, child in self._children.items()}

    async def start(self) -> str:
        """Start everything and wait until all workers have joined; the address for clients.

        Raises StartupError with the message of the process that failed; nothing is left running then.
        """
        try:
            self._janitor = await start_janitor(self.folder, self.life_line)
            await self._start_orchestrator()
            await self._start_workers()
        except BaseException:
            await self.stop()
            raise
        return self.address

    async def wait(self) -> None:
        """Wait until the orchestrator has died too often to be started again."""
        orchestrator, *_ = self._keepers.values()  # in the order in which they were started
        await asyncio.shield(orchestrator)

    async def stop(self) -> None:
        """End all processes within three seconds, and remove their sockets.

        The orchestrator goes first: it ends its runs, and then misses no worker.
        """
        keepers = list(self._keepers.values())
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
        await self._stop_children()
        self.life_line.close()
        if self._janitor is not None:
            await self._janitor.wait()
        else:
            shutil.rmtree(self.folder, ignore_errors=True)  # a second call finds nothing

    async def _stop_children(self) -> None:
        if not self._children:
            return
        until = time.monotonic() + _STOP_WITHIN_S
        orchestrator, *workers = self._children.values()  # in the order in which they were started
        stopping = asyncio.create_task(orchestrator.stop(_STOP_WITHIN_S))
        await asyncio.wait([stopping], timeout=_HEAD_START_S)
        rest_s = until - time.monotonic()
        await asyncio.gather(stopping, *(worker.stop(rest_s) for worker in workers))

    async def _start_orchestrator(self) -> None:
        spec = self._layout.orchestrator(self.folder)
        self._progress(f"starting the {spec.name}")
        child = await self._start_child(spec)
        announced = await child.announcement()
        if announced is None:
            raise StartupError(await child.last_line())
        where = json.loads(announced)
        child.spec = self._layout.orchestrator(self.folder, where)  # of which it is started again
        self.address = _reachable(where["listening"])
        self.http, self.metrics = _reachable(where.get("http", "")), _reachable(where.get("metrics", ""))
        self._keep(child)

    async def _start_workers(self) -> None:
        specs = self._layout.workers(self.folder)
        for spec in specs:
            self._progress(f"starting {spec.name}")
        workers = [await self._start_child(spec) for spec in specs]
        waiting = {child.pid: child for child in workers}
        asking = InThreads(Threads("weft-supervisor"))  # an executor may be over with the main thread
        joined = partial(_joined, self.inside, Access(self._layout.key))
        while waiting:
            for pid in await asking.call(joined) & waiting.keys():
                self._progress(f"{waiting.pop(pid).spec.name} has joined")
            for child in waiting.values():
                if not child.running:
                    raise StartupError(await child.last_line())
            await asyncio.sleep(_POLL_S if waiting else 0)
        for child in workers:
            self._keep(child)

    async def _start_child(self, spec: ProcessSpec) -> Child:
        child = self._children[spec.name] = await Child.start(spec, self.life_line)
        return child

    def _keep(self, child: Child) -> None:
        child.forward_lines()
        self._keepers[child.spec.name] = asyncio.create_task(self._restart_whenever_it_dies(child))

    async def _restart_whenever_it_dies(self, child: Child) -> None:
        budget = RestartBudget()
        name = child.spec.name
        while True:
            how = await child.wait()
            delay_s = budget.spend(time.monotonic())
            if delay_s is None:
                log.error("%s %s, too often in a minute to start it again", name, how)
                return
            log.warning("%s (process %d) %s; starting it again", name, child.pid, how)
            await asyncio.sleep(delay_s)
            child = await self._start_child(child.spec)
            child.forward_lines()


def _private_folder() -> Path:
    """A new folder that only this user may enter, with a path short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="weft-"))
    if len(str(folder)) > _LONGEST_FOLDER:
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix="weft-", dir="/tmp"))
    return folder


def _reachable(listening: str) -> str:
    """The address by which this machine reaches a server that listens there."""
    return with_host(listening, "127.0.0.1") if is_wildcard(listening) else listening


def _joined(address: str, access: Access) -> set[int]:
    """The process ids of the workers that the orchestrator knows; none while it does not answer."""
    with suppress(grpc.RpcError), blocking_channel(address, access) as channel:
        orchestrator = orchestrator_pb2_grpc.OrchestratorStub(keyed(channel, access.key))
        info = orchestrator.Describe(orchestrator_pb2.DescribeServerRequest(), timeout=2.0)
        return {worker.pid for worker in info.workers}
    return set()
