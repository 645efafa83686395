"""The orchestrator's end of the connection with one worker."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, Final

import grpc

from weft.graph.ir import Value
from weft.proto import worker_pb2, worker_pb2_grpc
from weft.runtime.access import Access, keyed
from weft.runtime.channels import open_channel
from weft.runtime.outbox import Outbox
from weft.runtime.scheduler.events import EngineSpec, Usage
from weft.runtime.tls import obstacle

from .profiles import costs_of

__all__ = ["WorkerLink", "engine_specs", "usage_of"]

_CONNECT_S: Final = 5.0

_log = logging.getLogger(__name__)

Reported = Callable[["WorkerLink", Iterable[worker_pb2.Report]], None]
Lost = Callable[["WorkerLink", str], None]


def engine_specs(info: worker_pb2.WorkerInfo) -> tuple[EngineSpec, ...]:
    """A worker's engines as the scheduler sees them; each tool counts as one."""
    specs: list[EngineSpec] = []
    for engine in info.engines:
        if engine.kind == "tool":
            specs += [_spec(engine, tool.name, tool.capacity) for tool in engine.tools]
        else:
            specs.append(_spec(engine, engine.model))
    return tuple(specs)


def _spec(engine: worker_pb2.EngineInfo, name: str, capacity: int = 0) -> EngineSpec:
    return EngineSpec(
        engine.kind,
        name,
        capacity or engine.capacity,
        engine.efficient_batch,
        engine.item_ms,
        engine.llm.kv_slots,
        costs_of(engine.llm.profile),
        engine.llm.kv_layout,
        engine.llm.kv_token_bytes,
        engine.llm.shares_prefixes,
    )


def usage_of(timing: worker_pb2.Timing) -> Usage | None:
    """What a language model did for a task as the scheduler sees it, if it was one."""
    if not (timing.cached_tokens or timing.computed_tokens or timing.generated_tokens):
        return None
    return Usage(
        timing.cached_tokens,
        timing.computed_tokens,
        timing.generated_tokens,
        timing.fetched_tokens,
        1000 * timing.fetch,
    )


class WorkerLink:
    """One membership of a worker: its description, its last status, and the Execute stream.

    `on_report` and `on_lost` are called from the event loop; `on_lost` once, and never after `close`.
    """

    def __init__(
        self, info: worker_pb2.WorkerInfo, access: Access, on_report: Reported, on_lost: Lost
    ) -> None:
        """`access`: with the server's key, without which the worker takes no calls."""
        self.info = info
        self.status: worker_pb2.Status | None = None
        self.indexes = {index.name for engine in info.engines for index in engine.indexes}
        self.holds: dict[str, set[Value]] = {}  # by run: the values that the worker was sent or has made
        self.lost = asyncio.Event()
        self._access = access
        self._on_report = on_report
        self._on_lost = on_lost
        self._commands: Outbox[worker_pb2.Command] = Outbox()
        self._channel = open_channel(info.address, access)
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
            why = await obstacle(self.info.address, self._access)
            raise ConnectionError(
                f"worker {self.id!r} cannot be reached at {self.info.address!r}"
                + (f": {why}" if why else "; it must name an address where the orchestrator can dial it")
            ) from None
        self._reader = asyncio.create_task(self._read(), name=f"worker {self.id}")

    def send(self, command: worker_pb2.Command, within_s: float = 0.0) -> None:
        """Queue a command; commands arrive in order, and those of one turn of the loop together.

        One that has time goes with the next that has none, at the latest after so many seconds.
        """
        self._commands.put(command, within_s=within_s)

    async def close(self) -> None:
        """Hang up."""
        if self._reader:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        await self._channel.close()

    async def _read(self) -> None:
        call: Any = worker_pb2_grpc.WorkerStub(keyed(self._channel, self._access.key)).Execute()
        writer = asyncio.create_task(self._write(call), name=f"commands of worker {self.id}")
        reason = "it ended the connection"
        try:
            while (message := await call.read()) is not grpc.aio.EOF:
                self._on_report(self, message.reports)
        except grpc.aio.AioRpcError as problem:
            reason = problem.details() or problem.code().name
        except Exception as problem:  # to hear no more of a worker is to have lost it
            _log.exception("a report of worker %r could not be taken in", self.id)
            reason = f"its report could not be taken in: {type(problem).__name__}: {problem}"
        finally:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
        self.lost.set()
        self._on_lost(self, reason)

    async def _write(self, call: Any) -> None:
        while commands := await self._commands.take():
            await call.write(worker_pb2.Commands(commands=commands))
