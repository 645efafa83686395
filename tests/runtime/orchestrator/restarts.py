"""What the tests of runs that outlive the server have in common."""

from __future__ import annotations

import asyncio
from typing import Any

from weft.graph.codec import encode_graph, encode_type
from weft.graph.ir import Graph, Node, Value
from weft.graph.ops.common import Input, Interrupt, Tool
from weft.graph.ops.user import Generate
from weft.graph.prompt import Message, Slot
from weft.graph.sampling import Sampling
from weft.graph.types import TEXT
from weft.proto import orchestrator_pb2 as pb
from weft.proto import value_pb2, worker_pb2

from .conftest import EchoWorker, Stage, llm, retrieval
from .test_interrupt import info_of


def raw(*parts: str | Slot) -> tuple[Message, ...]:
    return (Message("raw", parts),)


ASKING = (
    Node(0, Input("q")),
    Node(1, Generate(raw("Plan ", Slot("q")), sampling=Sampling(temperature=1.0, seed=3)), {"q": Value(0)}),
    Node(2, Tool("send", TEXT, where="server"), {"text": Value(1)}, "mail"),
    Node(3, Interrupt(TEXT), {"value": Value(2)}, "approve"),
    Node(
        4,
        Generate(raw("Plan ", Slot("q"), Slot("a"), " go on: ", Slot("b"))),
        {"q": Value(0), "a": Value(1), "b": Value(3)},
    ),
)


async def worker(stage: Stage, kind: type[EchoWorker] = EchoWorker) -> Any:
    """A worker that offers everything, and a tool that must not run twice."""
    tool = worker_pb2.ToolInfo(name="send", result=encode_type(TEXT), parameters="{}")
    engines = [llm(), *retrieval()[:2], worker_pb2.EngineInfo(kind="tool", tools=[tool])]
    started = kind("w", engines)
    await started.start(stage.address)
    stage.stack.push_async_callback(started.stop)
    return started


async def submit(stage: Stage, nodes: tuple[Node, ...], **options: Any) -> str:
    graph = encode_graph(Graph(nodes, (Value(nodes[-1].id),), "asks"))
    info = await stage.stub.Submit(pb.SubmitRequest(graph=graph, inputs={"q": '"x"'}, **options))
    return str(info.run)


async def waits(stage: Stage, run: str) -> pb.RunInfo:
    while (info := await info_of(stage, run)).state != "waiting":
        assert info.state == "running", info
        await asyncio.sleep(0.005)
    return info


async def fault_at_the_stop(stage: Stage, run: str) -> value_pb2.Fault:
    """What those who follow a run hear when the server stops."""
    following = stage.stub.Watch(pb.WatchRequest(run=run))
    await following.read()
    await stage.server.stop()
    fault: value_pb2.Fault = (await following.read()).events[-1].finished.fault
    return fault


def ran(worker: EchoWorker, *kinds: type) -> int:
    return sum(isinstance(node.op, kinds) for node in worker.nodes())
