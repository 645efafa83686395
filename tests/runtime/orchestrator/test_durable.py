"""Runs that outlive the server: one server after the other over one data folder."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from weft.graph.codec import encode_graph
from weft.graph.ir import Graph, Node, Policy, Value
from weft.graph.ops.common import Format, Input, Interrupt, Project, Search, Tool
from weft.graph.ops.control import Loop, Map
from weft.graph.ops.primitive import Decode, Prefill
from weft.graph.ops.user import Generate
from weft.graph.prompt import Message, Slot
from weft.graph.sampling import Sampling
from weft.graph.types import BOOLEAN, TEXT, Data
from weft.proto import orchestrator_pb2 as pb
from weft.proto import orchestrator_pb2_grpc
from weft.runtime.config import ModelSettings, Settings
from weft.runtime.orchestrator.journal import FILE
from weft.runtime.orchestrator.server import Server
from weft.runtime.scheduler.policies import Policies
from weft.runtime.scheduler.scheduler import Scheduler

from .conftest import EchoWorker, Stage, llm, retrieval
from .test_interrupt import info_of, outcome, resume


def raw(*parts: str | Slot) -> tuple[Message, ...]:
    return (Message("raw", parts),)


ASKING = (
    Node(0, Input("q")),
    Node(1, Generate(raw("Plan ", Slot("q")), sampling=Sampling(temperature=1.0, seed=3)), {"q": Value(0)}),
    Node(2, Tool("send", TEXT, where="server"), {"text": Value(1)}, "mail"),
    Node(3, Interrupt(TEXT), {"value": Value(2)}, "approve"),
    Node(4, Generate(raw("Plan ", Slot("q"), Slot("a"), " go on: ", Slot("b"))), {"q": Value(0), "a": Value(1), "b": Value(3)}),
)


class Servers:
    """Servers that follow each other over one data folder."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.folder = folder
        self._stack = stack
        self._lives = 0

    async def start(self, **settings: Any) -> Stage:
        """The next server, with no worker."""
        given: dict[str, Any] = {"models": [ModelSettings(name="m", path="none")], "data": self.folder}
        server = Server(
            Settings(listen="127.0.0.1:0", **{**given, **settings}), Scheduler(Policies(grace_s=0.3))
        )
        address = await server.start()
        self._stack.push_async_callback(server.stop)
        channel = await self._stack.enter_async_context(grpc.aio.insecure_channel(address))
        return Stage(server, address, orchestrator_pb2_grpc.OrchestratorStub(channel), self._stack)

    async def crash(self, stage: Stage, run: str) -> None:
        """Let the next server find what this one has written by now."""
        await stage.server.orchestrator.keeping.written(run)
        self._lives += 1
        copy = self.folder.with_name(f"{self.folder.name}-{self._lives}")
        copy.mkdir()
        for file in self.folder.glob(f"{FILE}*"):
            shutil.copy(file, copy / file.name)
        self.folder = copy
        await stage.server.stop()


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[Servers]:
    async with AsyncExitStack() as stack:
        yield Servers(tmp_path / "data", stack)


def send(**options: Any) -> Any:
    from weft.graph.codec import encode_type
    from weft.proto import worker_pb2
    tool = worker_pb2.ToolInfo(name="send", result=encode_type(TEXT), parameters="{}", **options)
    return worker_pb2.EngineInfo(kind="tool", tools=[tool])


async def worker(stage: Stage) -> EchoWorker:
    return await stage.worker("w", llm(), *retrieval()[:2], send())


async def submit(stage: Stage, nodes: tuple[Node, ...], **options: Any) -> str:
    graph = encode_graph(Graph(nodes, (Value(nodes[-1].id),), "asks"))
    info = await stage.stub.Submit(pb.SubmitRequest(graph=graph, inputs={"q": '"x"'}, **options))
    return str(info.run)


async def waits(stage: Stage, run: str) -> pb.RunInfo:
    while (info := await info_of(stage, run)).state != "waiting":
        assert info.state == "running", info
        await asyncio.sleep(0.005)
    return info


def ran(worker: EchoWorker, *kinds: type) -> int:
    return sum(isinstance(node.op, kinds) for node in worker.nodes())


async def test_a_run_goes_on_with_what_it_had(servers: Servers) -> None:
    stage = await servers.start()
    first = await worker(stage)
    run = await submit(stage, ASKING)
    asked = (await waits(stage, run)).waiting
    assert (ran(first, Decode), ran(first, Tool)) == (1, 1)
    await servers.crash(stage, run)
    stage = await servers.start()
    assert (await info_of(stage, run)).state == "running"
    second = await worker(stage)
    again = (await waits(stage, run)).waiting
    assert [(a.label, a.value) for a in again] == [(a.label, a.value) for a in asked]
    assert not second.nodes()
    await resume(stage, run, "yes")
    result = await outcome(stage, run)
    assert result.outputs[0].text.text == "<Plan x<Plan x> go on: yes>"
    assert (ran(second, Decode), ran(second, Tool)) == (1, 0)
    await servers.crash(stage, run)
    stage = await servers.start()
    assert not (await stage.stub.ListRuns(pb.ListRunsRequest())).runs
