"""Calls with and without the key of a server, of every kind, over both kinds of channels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from pydantic import SecretStr, ValidationError

from weft.proto import orchestrator_pb2 as pb
from weft.proto import worker_pb2, worker_pb2_grpc
from weft.proto.orchestrator_pb2_grpc import OrchestratorStub
from weft.runtime.access import Access, keyed
from weft.runtime.channels import channel_options
from weft.runtime.config import Settings
from weft.runtime.orchestrator.server import Server
from weft.runtime.worker.catalog import Catalog
from weft.runtime.worker.host import Host

KEY = "a-key!"
NOBODY = pb.RunRequests()
DESCRIBE = pb.DescribeServerRequest()


@asynccontextmanager
async def orchestrator(key: str | None = KEY) -> AsyncIterator[str]:
    server = Server(
        Settings(
            listen="127.0.0.1:0", models=[], journal_mb=0, api_key=None if key is None else SecretStr(key)
        )
    )
    try:
        yield await server.start()
    finally:
        await server.stop()


@asynccontextmanager
async def worker(orchestrator: str, key: str | None = KEY) -> AsyncIterator[Host]:
    host = Host(
        Catalog([]), listen="127.0.0.1:0", orchestrator=orchestrator, worker_id="w", access=Access(key)
    )
    await host.start()
    try:
        yield host
    finally:
        await host.stop()


@asynccontextmanager
async def dialled(address: str, key: str | None) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(address, channel_options()) as channel:
        yield keyed(channel, key)


async def workers_of(address: str, key: str | None = KEY) -> list[str]:
    async with dialled(address, key) as channel:
        return [found.worker_id for found in (await OrchestratorStub(channel).Describe(DESCRIBE)).workers]


async def eventually_joined(address: str, key: str | None = KEY) -> None:
    async with asyncio.timeout(20):
        while await workers_of(address, key) != ["w"]:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("key", [None, "another", "a-key", "a-key!!", "Bearer a-key!"])
async def test_whoever_lacks_the_key_is_refused_whatever_is_called(key: str | None) -> None:
    async with orchestrator() as address, dialled(address, key) as channel:
        stub: Any = OrchestratorStub(channel)
        with pytest.raises(grpc.aio.AioRpcError, match="set WEFT_API_KEY") as refused:
            await stub.Describe(DESCRIBE)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        with pytest.raises(grpc.aio.AioRpcError, match="set WEFT_API_KEY"):
            await anext(aiter(stub.Watch(pb.WatchRequest(run="r"))))
        stream = stub.Run()
        with pytest.raises(grpc.aio.AioRpcError, match="set WEFT_API_KEY"):
            await stream.read()  # before it has sent anything
        with pytest.raises(grpc.aio.AioRpcError, match="set WEFT_API_KEY"):
            await anext(aiter(stub.Join(worker_pb2.WorkerInfo(worker_id="w"))))


async def test_whoever_has_the_key_is_served_whatever_is_called() -> None:
    async with orchestrator() as address, dialled(address, KEY) as channel:
        stub: Any = OrchestratorStub(channel)
        await stub.Describe(DESCRIBE)
        with pytest.raises(grpc.aio.AioRpcError) as missing:
            await anext(aiter(stub.Watch(pb.WatchRequest(run="r"))))
        assert missing.value.code() is grpc.StatusCode.NOT_FOUND
        with pytest.raises(grpc.aio.AioRpcError) as wrong:
            await stub.Run(iter([NOBODY])).read()
        assert wrong.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_blocking_channel_carries_the_key_beside_other_metadata() -> None:
    def call(address: str, key: str | None) -> None:
        with grpc.insecure_channel(address) as channel:
            stub = OrchestratorStub(keyed(channel, key))
            stub.Describe(DESCRIBE, metadata=(("traceparent", "x"),))
            assert not stub.Describe.future(DESCRIBE, metadata=(("traceparent", "x"),)).result().workers

    async with orchestrator() as address:
        await asyncio.to_thread(call, address, KEY)
        with pytest.raises(grpc.RpcError, match="set WEFT_API_KEY"):
            await asyncio.to_thread(call, address, "another")


async def test_a_server_without_a_key_does_not_mind_one() -> None:
    async with orchestrator(None) as address:
        assert await workers_of(address, "any") == await workers_of(address, None) == []


async def test_health_needs_no_key() -> None:
    async with orchestrator() as address, worker(address) as host:
        for each in (address, host.address):
            async with dialled(each, None) as channel:
                stub: Any = health_pb2_grpc.HealthStub(channel)
                request = health_pb2.HealthCheckRequest()
                for answer in (await stub.Check(request), await anext(aiter(stub.Watch(request)))):
                    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_what_there_is_to_call_is_told_only_with_the_key() -> None:
    async def services(address: str, key: str | None) -> list[str]:
        async with dialled(address, key) as channel:
            stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
            stream = stub.ServerReflectionInfo()
            reading = asyncio.ensure_future(stream.read())
            if key is not None:
                await stream.write(reflection_pb2.ServerReflectionRequest(list_services=""))
            return [service.name for service in (await reading).list_services_response.service]

    async with orchestrator() as address, worker(address) as host:
        assert "weft.v1.Orchestrator" in await services(address, KEY)
        assert "weft.v1.Worker" in await services(host.address, KEY)
        for each in (address, host.address):
            with pytest.raises(grpc.aio.AioRpcError, match="set WEFT_API_KEY"):
                await services(each, None)


@pytest.mark.parametrize(
    ("metadata", "served"),
    [
        ([("authorization", f"Bearer {KEY}")], True),
        ([("authorization", "Bearer another"), ("authorization", f"Bearer {KEY}")], False),
        ([("authorization", f"Bearer {KEY}"), ("authorization", "Bearer another")], False),
        ([("authorization", KEY)], False),
        ([("authorization-bin", f"Bearer {KEY}".encode())], False),
    ],
)
async def test_only_the_header_as_it_is_documented_counts(metadata: Any, served: bool) -> None:
    async with orchestrator() as address, grpc.aio.insecure_channel(address) as channel:
        call: Any = OrchestratorStub(channel).Describe(DESCRIBE, metadata=metadata)
        expected = grpc.StatusCode.OK if served else grpc.StatusCode.UNAUTHENTICATED
        assert await call.code() is expected


async def test_refused_calls_are_noted_but_not_each(caplog: pytest.LogCaptureFixture) -> None:
    async with orchestrator() as address:
        for _ in range(3):
            with pytest.raises(grpc.aio.AioRpcError):
                await workers_of(address, "another")
        assert await workers_of(address) == []
    (line,) = [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]
    assert line.startswith("calls without the right key were refused: 1, the last of ipv4:127.0.0.1:")
    assert KEY not in caplog.text


async def test_a_worker_joins_with_the_key_and_takes_calls_with_it_alone() -> None:
    async with orchestrator() as address, worker(address) as host:
        await eventually_joined(address)
        async with dialled(host.address, None) as channel:
            stub: Any = worker_pb2_grpc.WorkerStub(channel)
            for call in (stub.Execute(), stub.FetchKv(worker_pb2.FetchKvRequest(model="m"))):
                with pytest.raises(grpc.aio.AioRpcError, match="set WEFT_API_KEY"):
                    await call.read()
        assert await workers_of(address) == ["w"]


async def test_a_worker_without_the_key_is_told_and_joins_no_server(caplog: pytest.LogCaptureFixture) -> None:
    async with orchestrator() as address, worker(address, "another"), asyncio.timeout(20):
        while "set WEFT_API_KEY" not in caplog.text:
            await asyncio.sleep(0.05)
        assert await workers_of(address) == []


async def test_a_worker_with_a_key_is_told_that_the_server_has_none(caplog: pytest.LogCaptureFixture) -> None:
    async with orchestrator(None) as address, worker(address), asyncio.timeout(20):
        while "has no key, without which the worker takes no calls" not in caplog.text:
            assert await workers_of(address, None) == []
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("key", ["", "two words", "schlüssel", "line\n"])
def test_keys_that_cannot_travel_are_refused(key: str) -> None:
    with pytest.raises(ValidationError, match="api_key"):
        Settings(api_key=SecretStr(key))
