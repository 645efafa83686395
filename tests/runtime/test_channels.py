"""Pings between peers: our servers put up with any number, and so with those of our own channels."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from weft.runtime.channels import channel_options, prepare_process, server_options
from weft.runtime.config import Settings
from weft.runtime.orchestrator.server import Server
from weft.runtime.worker.catalog import Catalog
from weft.runtime.worker.host import Host

_THREE_STRIKES_S = 4.0  # gRPC pings at most once a second


@asynccontextmanager
async def orchestrator() -> AsyncIterator[str]:
    server = Server(Settings(listen="127.0.0.1:0", models=[]))
    yield await server.start()
    await server.stop()


@asynccontextmanager
async def worker() -> AsyncIterator[str]:
    host = Host(Catalog([]), listen="127.0.0.1:0", orchestrator="127.0.0.1:1")
    await host.start()
    yield host.address
    await host.stop()


async def stays_connected(address: str) -> bool:
    """Whether a stream over one of our channels outlasts the strikes of gRPC's servers."""
    async with grpc.aio.insecure_channel(address, channel_options(address)) as channel:
        call = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await call.read()).status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(call.read(), _THREE_STRIKES_S)
        return channel.get_state() is grpc.ChannelConnectivity.READY


async def test_a_peer_that_pings_is_not_sent_away() -> None:
    async with orchestrator() as first, worker() as second:
        assert all(await asyncio.gather(stays_connected(first), stays_connected(second)))


def test_only_tcp_needs_pings_and_every_server_allows_them(tmp_path: Path) -> None:
    pinging = {"grpc.keepalive_time_ms", "grpc.keepalive_permit_without_calls"}
    assert pinging <= dict(channel_options("127.0.0.1:1")).keys()
    assert not pinging & dict(channel_options(f"unix:{tmp_path}/s")).keys()
    assert dict(server_options())["grpc.http2.max_ping_strikes"] == 0
    assert dict(server_options(7))["grpc.max_receive_message_length"] == 7


def test_a_process_reads_our_settings_of_grpc_unless_it_is_given_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GRPC_VERBOSITY", "DEBUG")
    monkeypatch.delenv("GRPC_EXPERIMENTS", raising=False)
    prepare_process()
    assert os.environ["GRPC_VERBOSITY"] == "DEBUG"
    assert "-event_engine_client" in os.environ["GRPC_EXPERIMENTS"].split(",")
