"""The worker's server: membership, standard services, sessions."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from weft.graph.codec import node_bytes
from weft.graph.ir import Node, Value
from weft.graph.ops.common import Embed
from weft.graph.values import Json, TextValue, VectorsValue
from weft.proto import graph_pb2, value_pb2, worker_pb2, worker_pb2_grpc
from weft.runtime.worker.catalog import Catalog
from weft.runtime.worker.engines.base import Outcome, StartError, Timing
from weft.runtime.worker.engines.embed import EmbedEngine
from weft.runtime.worker.host import Host

from .conftest import PATIENCE_S, Link, StartWorker, linked, orchestrator_at

EMBED = Node(1, Embed(), {"texts": Value(0)})
TEXT = {"%0": TextValue("a")}


@asynccontextmanager
async def worker_of(
    orchestrator: str, listen: str = "127.0.0.1:0", advertise: str = ""
) -> AsyncIterator[Host]:
    host = Host(
        Catalog([EmbedEngine(None)]),
        listen=listen,
        orchestrator=orchestrator,
        advertise=advertise,
        worker_id="w",
    )
    await host.start()
    try:
        yield host
    finally:
        await host.stop()


async def embeds(link: Link, run: str = "r") -> bool:
    await link.run(EMBED, run=run, values=TEXT)
    (vectors,) = await link.results(1, run)
    return isinstance(vectors, VectorsValue)


@pytest.mark.parametrize("scheme", ["tcp", "unix"])
async def test_a_worker_joins_and_can_be_reached_where_it_says(scheme: str, tmp_path: Path) -> None:
    listen = "127.0.0.1:0" if scheme == "tcp" else f"unix:{tmp_path}/w.sock"
    at = "127.0.0.1:0" if scheme == "tcp" else f"unix:{tmp_path}/o.sock"
    async with orchestrator_at(at) as (stub, address), worker_of(address, listen) as host:
        info = await asyncio.wait_for(stub.joins.get(), PATIENCE_S)
        assert (info.worker_id, info.address) == ("w", host.address)
        assert info.version
        assert info.pid
        assert [engine.kind for engine in info.engines] == ["embed"]
        async with linked(info) as link:
            assert await embeds(link)
    assert not (tmp_path / "w.sock").exists()


async def test_a_worker_may_advertise_another_address() -> None:
    async with orchestrator_at("127.0.0.1:0") as (stub, address), worker_of(address, advertise="proxy:1"):
        assert (await asyncio.wait_for(stub.joins.get(), PATIENCE_S)).address == "proxy:1"


async def test_a_worker_on_all_interfaces_says_by_which_it_is_reached() -> None:
    async with (
        orchestrator_at("127.0.0.1:0") as (stub, address),
        worker_of(address, listen="0.0.0.0:0"),
        linked(await asyncio.wait_for(stub.joins.get(), PATIENCE_S)) as link,
    ):
        assert link.info.address.startswith("127.0.0.1:")
        assert await embeds(link)


async def test_a_worker_survives_its_orchestrator_and_joins_the_next(tmp_path: Path) -> None:
    at = f"unix:{tmp_path}/o.sock"
    async with worker_of(at) as host:
        await asyncio.sleep(0.05)  # nobody is there yet
        for _ in range(2):
            async with orchestrator_at(at) as (stub, _address):
                info = await asyncio.wait_for(stub.joins.get(), PATIENCE_S)
                assert info.worker_id == host.id
                async with linked(info) as link:
                    assert await embeds(link)


async def test_a_refused_worker_tries_again(tmp_path: Path) -> None:
    at = f"unix:{tmp_path}/o.sock"
    async with orchestrator_at(at, accept=False) as (stub, _), worker_of(at):
        for _attempt in range(2):
            await asyncio.wait_for(stub.joins.get(), PATIENCE_S)
        stub.accept = True
        async with asyncio.timeout(PATIENCE_S):
            while "w" not in stub.present:
                await asyncio.sleep(0.05)


async def test_stopping_leaves_the_orchestrator() -> None:
    async with orchestrator_at("127.0.0.1:0") as (stub, address):
        async with worker_of(address):
            await asyncio.wait_for(stub.joins.get(), PATIENCE_S)
            assert stub.present == {"w"}
        async with asyncio.timeout(PATIENCE_S):
            while stub.present:
                await asyncio.sleep(0.01)


async def test_stopping_ends_streams_and_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    async with orchestrator_at("127.0.0.1:0") as (stub, address):
        async with worker_of(address):
            info = await asyncio.wait_for(stub.joins.get(), PATIENCE_S)
            channel = grpc.aio.insecure_channel(info.address)
            worker: worker_pb2_grpc.WorkerAsyncStub = worker_pb2_grpc.WorkerStub(channel)
            call: Any = worker.Execute()
            await call.read()  # the status
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK
        await channel.close()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_two_orchestrators_do_not_see_each_other(start_worker: StartWorker) -> None:
    first = await start_worker(EmbedEngine(None))
    async with linked(first.info) as second:
        await first.run(EMBED)
        await second.run(EMBED)
        await second.push(TEXT)
        await second.done(1)
        await first.status(waiting=1)
    await first.push(TEXT)
    await first.done(1)


async def test_the_standard_services_answer(start_worker: StartWorker) -> None:
    link = await start_worker(EmbedEngine(None))
    async with grpc.aio.insecure_channel(link.info.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(service="weft.v1.Worker"))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = reflection.ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        )
        services = [service.name async for reply in call for service in reply.list_services_response.service]
        assert "weft.v1.Worker" in services
        worker: worker_pb2_grpc.WorkerAsyncStub = worker_pb2_grpc.WorkerStub(channel)
        assert await worker.Describe(worker_pb2.DescribeRequest()) == link.info


async def test_a_port_in_use_is_one_clear_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        host = Host(Catalog([EmbedEngine(None)]), listen=listen, orchestrator="127.0.0.1:1")
        with pytest.raises(StartError, match=f"^cannot listen on '{listen}': the address is in use"):
            await host.start()
        await host.stop()


async def test_malformed_nodes_and_values_fail_their_tasks_only(start_worker: StartWorker) -> None:
    link = await start_worker(EmbedEngine(None))
    nothing = worker_pb2.Task(node=graph_pb2.Node(id=7).SerializeToString(), id=7, attempt=3)
    await link.send_fragment(worker_pb2.Fragment(run="r", tasks=[nothing]))
    fault = await link.fault(7)
    assert (fault.code, fault.worker) == ("invalid", link.info.worker_id)
    assert "has no operation" in fault.message
    bad = value_pb2.Datum(json="{")
    task = worker_pb2.Task(node=node_bytes(EMBED), id=1, attempt=1)
    await link.send_fragment(worker_pb2.Fragment(run="s", tasks=[task], values={"%0": bad}))
    assert (await link.fault(1, "s")).message.startswith("value %0: json: not a JSON text")
    await link.run(EMBED, run="t")
    await link.send(push=worker_pb2.Push(run="t", values={"%0": bad}))
    fault = await link.fault(1, "t")
    assert fault.message.startswith("value %0: json: not a JSON text")
    assert fault.node == "%1 embed"
    await link.send()
    assert await embeds(link, "u")
    await link.send(release=worker_pb2.Release(run="u"))
    await link.status(running=0, waiting=0)


async def test_results_that_no_message_can_say_fail_their_task_only(
    start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def mistaken(*_: object) -> Outcome:
        return Outcome((Json(float("nan")),), Timing())

    link = await start_worker(EmbedEngine(None))
    with monkeypatch.context() as patched:
        patched.setattr(EmbedEngine, "execute", mistaken)
        await link.run(EMBED, values=TEXT)
        fault = await link.fault(1)
    assert (fault.code, fault.node) == ("internal", "%1 embed")
    assert fault.message.startswith("the result cannot be sent: a Json cannot be encoded")
    assert await embeds(link, "s")


async def test_a_kind_that_the_worker_lacks_is_a_fault(start_worker: StartWorker) -> None:
    link = await start_worker(EmbedEngine(None))
    await link.run(Node(1, Embed("another"), {"texts": Value(0)}), values=TEXT)
    fault = await link.fault(1)
    assert fault.code == "not_found"
    assert "an engine of kind 'embed' with model 'another'" in fault.message
    assert "embed 'weft-hash-v1'" in fault.message
