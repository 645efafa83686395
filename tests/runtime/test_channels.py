"""Pings between peers: our servers put up with any number, and so with those of our own channels."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from weft.runtime.channels import channel_options, server_options
from weft.runtime.config import Settings
from weft.runtime.environment import prepare_process
from weft.runtime.orchestrator.server import Server
from weft.runtime.worker.catalog import Catalog
from weft.runtime.worker.host import Host

_THREE_STRIKES_S = 4.0  # gRPC pings at most once a second
_SOONER_THAN_CLIENTS_S = 30.0  # which are waited for, for a minute


@asynccontextmanager
async def orchestrator() -> AsyncIterator[str]:
    server = Server(Settings(listen="127.0.0.1:0", models=[], journal_mb=0))
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
    async with grpc.aio.insecure_channel(address, channel_options()) as channel:
        call = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await call.read()).status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(call.read(), _THREE_STRIKES_S)
        return channel.get_state() is grpc.ChannelConnectivity.READY


async def test_a_peer_that_pings_is_not_sent_away() -> None:
    async with orchestrator() as first, worker() as second:
        assert all(await asyncio.gather(stays_connected(first), stays_connected(second)))


async def test_a_peer_that_stands_still_is_lost(tmp_path: Path) -> None:
    config = json.dumps({"listen": f"unix:{tmp_path}/s", "models": []})
    command = [sys.executable, "-P", "-m", "weft.runtime.orchestrator", "--config", config]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as peer:
        assert peer.stdout is not None
        address = json.loads(peer.stdout.readline())["listening"]
        async with grpc.aio.insecure_channel(address, channel_options()) as channel:
            call = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            await call.read()
            peer.send_signal(signal.SIGSTOP)
            try:
                with pytest.raises(grpc.aio.AioRpcError, match="ping timeout"):
                    await asyncio.wait_for(call.read(), _SOONER_THAN_CLIENTS_S)
            finally:
                peer.kill()


async def test_calls_that_come_all_at_once_wait_and_none_is_refused() -> None:
    async with orchestrator() as address:
        with grpc.insecure_channel(address) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check
            request = health_pb2.HealthCheckRequest()
            calls = [check.future(request) for _ in range(4000)]  # while the server's loop stands still
            codes = await asyncio.to_thread(lambda: {call.code() for call in calls})
    assert codes == {grpc.StatusCode.OK}


def test_every_server_allows_pings() -> None:
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


@pytest.mark.parametrize("given", [None, "promise_based_http2_client_transport"])
def test_a_client_imports_grpc_without_its_event_engine_and_leaves_the_environment_as_it_was(
    given: str | None,
) -> None:
    code = """
import os, sys

class Spy:
    def find_spec(name, path, target=None):
        if name == "grpc._cython":
            print(os.environ.get("GRPC_EXPERIMENTS"))

sys.meta_path.insert(0, Spy)
import weft
weft.Client
print(os.environ.get("GRPC_EXPERIMENTS"))
"""
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_EXPERIMENTS"}
    environment |= {"GRPC_EXPERIMENTS": given} if given else {}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, env=environment, timeout=60
    )
    read, left = done.stdout.splitlines()
    assert read == (given or "-event_engine_client,-event_engine_listener")
    assert left == str(given)
