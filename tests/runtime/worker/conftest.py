"""A small orchestrator that workers under test join, and the means to drive them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch

import weft
from weft.graph.codec import decode_datum, encode_datum, node_bytes
from weft.graph.ir import Node
from weft.graph.values import Datum
from weft.proto import orchestrator_pb2, value_pb2, worker_pb2, worker_pb2_grpc
from weft.runtime.access import Access, keyed
from weft.runtime.channels import channel_options, server_options
from weft.runtime.config import ModelSettings
from weft.runtime.worker.catalog import Catalog
from weft.runtime.worker.engines.base import Engine
from weft.runtime.worker.host import Host

MODEL_FOLDER = Path(weft.__path__[0]) / "apps" / "reference_model" / "model"
PATIENCE_S = 60.0


@dataclass
class Link:
    """The Execute stream to one worker, and what has come back over it."""

    call: Any
    info: worker_pb2.WorkerInfo
    messages: list[worker_pb2.Reports] = field(default_factory=list)
    reports: list[worker_pb2.Report] = field(default_factory=list)
    news: asyncio.Condition = field(default_factory=asyncio.Condition)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def collect(self) -> None:
        async for message in self.call:
            async with self.news:
                self.messages.append(message)
                self.reports += message.reports
                self.news.notify_all()

    async def send(self, **command: Any) -> None:
        async with self.turn:  # a stream takes one write at a time
            await self.call.write(worker_pb2.Commands(commands=[worker_pb2.Command(**command)]))

    async def run(
        self,
        *nodes: Node,
        run: str = "r",
        values: Mapping[str, Datum] | None = None,
        stream: worker_pb2.Stream.ValueType = worker_pb2.STREAM_NONE,
        timeout_s: float = 0.0,
        attempt: int = 1,
        internal: Collection[int] = (),
        namespace: str = "",
        source: worker_pb2.KvSource | None = None,
    ) -> None:
        """Send a fragment."""
        tasks = [
            worker_pb2.Task(
                node=node_bytes(node),
                id=node.id,
                stream=stream,
                timeout_s=timeout_s,
                attempt=attempt,
                internal=node.id in internal,
                source=source,
            )
            for node in nodes
        ]
        await self.send_fragment(
            worker_pb2.Fragment(run=run, tasks=tasks, values=_encoded(values or {}), namespace=namespace)
        )

    async def send_fragment(self, fragment: worker_pb2.Fragment) -> None:
        """Send a fragment as it is."""
        await self.send(batch=worker_pb2.Batch(fragments=[fragment]))

    async def push(self, values: Mapping[str, Datum], run: str = "r") -> None:
        await self.send(push=worker_pb2.Push(run=run, values=_encoded(values)))

    async def until(self, found: Callable[[], Any]) -> Any:
        """Wait until `found` gives something true of the reports so far; returns that."""
        async with self.news:
            async with asyncio.timeout(PATIENCE_S):
                await self.news.wait_for(found)
        return found()

    async def results(self, node: int, run: str = "r") -> tuple[Datum, ...]:
        """The results of a task; fails the test if it failed."""
        done = await self.done(node, run)
        return tuple(decode_datum(datum) for datum in done.results)

    async def done(self, node: int, run: str = "r") -> worker_pb2.TaskDone:
        """How a task ended well; fails the test if it failed."""
        await self.until(lambda: self._ended(node, run))
        ended = self._ended(node, run)
        assert isinstance(ended, worker_pb2.TaskDone), ended
        return ended

    async def fault(self, node: int, run: str = "r") -> value_pb2.Fault:
        """Why a task failed; fails the test if it did not."""
        await self.until(lambda: self._ended(node, run))
        ended = self._ended(node, run)
        assert isinstance(ended, worker_pb2.TaskFailed), ended
        return ended.fault

    async def status(self, **wanted: int) -> worker_pb2.Status:
        """Wait until the last status says this."""

        def found() -> worker_pb2.Status | None:
            states = [report.status for report in self.reports if report.HasField("status")]
            fits = states and all(getattr(states[-1], name) == value for name, value in wanted.items())
            return states[-1] if fits else None

        status = await self.until(found)
        assert isinstance(status, worker_pb2.Status)
        return status

    def deltas(self) -> list[list[worker_pb2.Delta]]:
        """The deltas of each message that has any."""
        found = [[r.delta for r in message.reports if r.HasField("delta")] for message in self.messages]
        return list(filter(None, found))

    def _ended(self, node: int, run: str) -> worker_pb2.TaskDone | worker_pb2.TaskFailed | None:
        for report in reversed(self.reports):
            if report.HasField("done") and (report.done.run, report.done.node) == (run, node):
                return report.done
            if report.HasField("failed") and (report.failed.run, report.failed.node) == (run, node):
                return report.failed
        return None


def _encoded(values: Mapping[str, Datum]) -> dict[str, value_pb2.Datum]:
    return {key: encode_datum(datum) for key, datum in values.items()}


class StubOrchestrator:
    """Accepts workers, or refuses them; it has no other method."""

    def __init__(self, accept: bool = True) -> None:
        self.accept = accept
        self.joins: asyncio.Queue[worker_pb2.WorkerInfo] = asyncio.Queue()
        self.present: set[str] = set()

    def handler(self) -> grpc.GenericRpcHandler:
        join = grpc.unary_stream_rpc_method_handler(
            self.join,
            request_deserializer=worker_pb2.WorkerInfo.FromString,
            response_serializer=orchestrator_pb2.JoinEvent.SerializeToString,
        )
        return grpc.method_handlers_generic_handler("weft.v1.Orchestrator", {"Join": join})

    async def join(self, request: worker_pb2.WorkerInfo, _: Any) -> AsyncIterator[orchestrator_pb2.JoinEvent]:
        yield orchestrator_pb2.JoinEvent(accepted=self.accept, message="" if self.accept else "no")
        self.joins.put_nowait(request)
        if not self.accept:
            return
        self.present.add(request.worker_id)
        try:
            await asyncio.Event().wait()
        finally:
            self.present.discard(request.worker_id)


@asynccontextmanager
async def orchestrator_at(address: str, accept: bool = True) -> AsyncIterator[tuple[StubOrchestrator, str]]:
    """A stub orchestrator that listens at `address`, and the address with the port that it got."""
    stub = StubOrchestrator(accept)
    server = grpc.aio.server(options=server_options())
    server.add_generic_rpc_handlers((stub.handler(),))
    port = server.add_insecure_port(address)
    await server.start()
    try:
        yield stub, address if address.startswith("unix:") else f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@asynccontextmanager
async def linked(info: worker_pb2.WorkerInfo, key: str | None = None) -> AsyncIterator[Link]:
    """An Execute stream to a worker."""
    async with grpc.aio.insecure_channel(info.address, channel_options()) as channel:
        stub: worker_pb2_grpc.WorkerAsyncStub = worker_pb2_grpc.WorkerStub(keyed(channel, key))
        link = Link(stub.Execute(), info)
        collector = asyncio.create_task(link.collect())
        try:
            yield link
        finally:
            link.call.cancel()
            await asyncio.gather(collector, return_exceptions=True)


StartWorker = Callable[..., Awaitable[Link]]


@pytest.fixture
async def start_worker(tmp_path: Path) -> AsyncIterator[StartWorker]:
    """Starts a worker with the given engines, has it join an orchestrator, and opens its stream."""
    numbers = itertools.count()
    async with AsyncExitStack() as stack:

        async def start(*engines: Engine, key: str | None = None) -> Link:
            stub, address = await stack.enter_async_context(orchestrator_at("127.0.0.1:0"))
            socket = f"unix:{tmp_path}/worker{next(numbers)}.sock"
            host = Host(Catalog(engines), listen=socket, orchestrator=address, access=Access(key))
            await host.start()
            stack.push_async_callback(host.stop)
            info = await asyncio.wait_for(stub.joins.get(), PATIENCE_S)
            return await stack.enter_async_context(linked(info, key))

        yield start


@pytest.fixture
def model_settings() -> ModelSettings:
    """The reference model with a small pool."""
    return ModelSettings(name="reference", path=str(MODEL_FOLDER), kv_tokens=4096, threads=1)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
