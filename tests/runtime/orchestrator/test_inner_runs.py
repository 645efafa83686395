"""Runs that belong to others: what a program on the server has started."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from weft.graph.codec import encode_graph
from weft.graph.ir import Graph, Node, Value
from weft.graph.ops.common import Input, Tool
from weft.graph.ops.user import Generate
from weft.graph.prompt import Message, Slot
from weft.graph.types import TEXT
from weft.proto import orchestrator_pb2 as pb
from weft.proto import value_pb2

from .conftest import Until
from .test_run_stream import Conversation, finish, start

GRAPH = Graph(
    (
        Node(0, Input("q")),
        Node(1, Tool("lookup", TEXT, "server", True), {"key": Value(0)}),
        Node(2, Generate((Message("raw", ("Q", Slot("q"))),)), {"q": Value(1)}),
    ),
    (Value(2),),
    "seen",
)


def request(parent: str = "") -> pb.SubmitRequest:
    return pb.SubmitRequest(graph=encode_graph(GRAPH), inputs={"q": '"x"'}, parent=parent)


async def state(stage: Any, run: str) -> str:
    listed = (await stage.stub.ListRuns(pb.ListRunsRequest())).runs
    return next(str(info.state) for info in listed if info.run == run)


async def run(stage: Any) -> pb.RunResult:
    result: pb.RunResult = await stage.stub.Invoke(request())
    return result


async def test_a_run_may_belong_to_another_one(stage: Any, until: Until) -> None:
    worker = stage.workers["w1"]
    worker.gated.add(Tool)
    outer = asyncio.ensure_future(run(stage))
    await until(lambda: stage.server.orchestrator.shell.runs)
    (record,) = stage.server.orchestrator.records.values()
    worker.gated.clear()
    request = pb.SubmitRequest(graph=encode_graph(GRAPH), inputs={"q": '"x"'}, parent=record.id)
    inner = await stage.stub.Invoke(request)
    assert inner.info.parent == record.id
    request.parent = inner.info.run
    innermost = await stage.stub.Invoke(request)
    assert record.tokens.generated == 3  # of the inner run alone: its own was over after it
    worker.gate.set()
    await outer
    assert record.tokens.generated == 6
    listed = await stage.stub.ListRuns(pb.ListRunsRequest())
    assert [info.parent for info in listed.runs] == [inner.info.run, record.id, ""]
    assert innermost.info.parent == inner.info.run
    request.parent = "r-forgotten"
    assert (await stage.stub.Invoke(request)).info.parent == "r-forgotten"


FAULT = pb.RunRequest(finish=pb.Finish(fault=value_pb2.Fault(code="internal", message="no luck")))


@pytest.mark.parametrize(
    ("end", "states"),
    [
        (finish("well"), ("done", "running", "running")),
        (FAULT, ("failed", "cancelled", "running")),
        (pb.RunRequest(cancel=pb.CancelRunRequest()), ("cancelled", "cancelled", "running")),
    ],
)
async def test_what_a_run_has_started_ends_with_it_unless_it_is_done(
    stage: Any, until: Until, end: pb.RunRequest, states: tuple[str, ...]
) -> None:
    worker = stage.workers["w1"]
    worker.gated.add(Tool)
    talk = Conversation(stage.stub)
    await talk.say(start(None))
    outer = (await talk.next("started")).run
    inner = asyncio.ensure_future(stage.stub.Invoke(request(outer)))
    await until(lambda: len(worker.nodes()) == 1)
    detached = (await stage.stub.Submit(request(outer))).run
    (begun, _) = stage.server.orchestrator.records.inner(outer)
    await talk.say(end)
    await talk.finished()
    assert tuple([await state(stage, run) for run in (outer, begun.id, detached)]) == states
    if "cancelled" in states:
        assert (
            await inner
        ).fault.message == f"the run was cancelled: run {outer}, which it belongs to, is over"
    worker.gate.set()
    await inner
    await until(lambda: not stage.server.orchestrator.records.inner(outer))
    assert await state(stage, detached) == "done"
