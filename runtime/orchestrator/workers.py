"""The orchestrator's end of the connection with one worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

import grpc

from weft.graph.ir import Value
from weft.proto import worker_pb2, worker_pb2_grpc
from weft.runtime.channels import channel_options
from weft.runtime.scheduler.events import EngineSpec

from .profiles import costs_of

__all__ = ["WorkerLink", "engine_specs"]

_CONNECT_S: Final = 5.0

Reported = Callable[["WorkerLink", worker_pb2.Report], None]
Lost = Callable[["WorkerLink", str], None]


def engine_specs(info: worker_pb2.WorkerInfo) -> tuple[EngineSpec, ...]:
    """A worker's engines as the scheduler sees them; each tool counts as one."""
    specs = []
    for engine in info.engines:
        names = [tool.name for tool in engine.tools] if engine.kind == "tool" else [engine.model]
        specs += [_spec(engine, name) for name in names]
    return tuple(specs)


def _spec(engine: worker_pb2.EngineInfo, name: str) -> EngineSpec:
    return EngineSpec(
        engine.kind,
        name,
        engine.capacity,
        engine.efficient_batch,
        engine.item_ms,
        engine.llm.kv_slots,
        costs_of(engine.llm.profile),
    )


class WorkerLink:
    """One membership of a worker: its description, its last status, and the Execute stream.

    `on_report` and `on_lost` are called from the event loop; `on_lost` once, and never after `close`.
    """

    def __init__(self, info: worker_pb2.WorkerInfo, on_report: Reported, on_lost: Lost) -> None:
        self.info = info
        self.status: worker_pb2.Status | None = None
        self.indexes = {index.name for engine in info.engines for index in engine.indexes}
        self.holds: dict[str, set[Value]] = {}  # by run: the values that the worker was sent or has made
        self.lost = asyncio.Event()
        self._on_report = on_report
        self._on_lost = on_lost
        self._commands: asyncio.Queue[worker_pb2.Command] = asyncio.Queue()
        self._channel = grpc.aio.insecure_channel(info.address, channel_options(info.address))
        self._reader: asyncio.Task[None] | None = None

    @property
    def id(self) -> str:
        """The worker's name."""
        return self.info.worker_id

    def describe(self) -> worker_pb2.WorkerInfo:
        """What the worker offers, with the indexes that it has now."""
        info = worker_pb2.WorkerInfo()
        info.CopyFrom(self.info)
        for engine in info.engines:
            if engine.kind == "index" and self.status is not None:
                del engine.indexes[:]
                engine.indexes.extend(self.status.indexes)
        return info

    async def open(self) -> None:
        """Dial the worker. Raises ConnectionError when it cannot be reached."""
        try:
            await asyncio.wait_for(self._channel.channel_ready(), _CONNECT_S)
        except TimeoutError:
            await self._channel.close()
            raise ConnectionError(
                f"worker {self.id!r} cannot be reached at {self.info.address!r}; it must name an address "
                "where the orchestrator can dial it"
            ) from None
        self._reader = asyncio.create_task(self._read(), name=f"worker {self.id}")

    def send(self, command: worker_pb2.Command) -> None:
        """Queue a command; commands arrive in order."""
        self._commands.put_nowait(command)

    async def close(self) -> None:
        """Hang up."""
        if self._reader:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        await self._channel.close()

    async def _read(self) -> None:
        call = worker_pb2_grpc.WorkerStub(self._channel).Execute(self._outgoing())
        reason = "it ended the connection"
        try:
            async for report in call:
                self._on_report(self, report)
        except grpc.aio.AioRpcError as problem:
            reason = problem.details() or problem.code().name
        self.lost.set()
        self._on_lost(self, reason)

    async def _outgoing(self) -> AsyncIterator[worker_pb2.Command]:
        while True:
            yield await self._commands.get()
