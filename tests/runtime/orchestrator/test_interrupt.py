"""Runs that ask a person, and wait for the answer."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import grpc
import pytest

from weft.graph.codec import encode_graph
from weft.graph.ir import Graph, Node, Policy, Value
from weft.graph.ops.common import Format, Input, Interrupt
from weft.graph.ops.user import Generate
from weft.graph.prompt import Message, Slot
from weft.graph.types import INTEGER, JSON, TEXT
from weft.proto import orchestrator_pb2 as pb

ASK = (
    Node(0, Input("q")),
    Node(1, Interrupt(INTEGER), {"value": Value(0)}, "count"),
    Node(2, Generate((Message("raw", ("Write ", Slot("n"))),)), {"n": Value(1)}),
)
TWICE = (
    *ASK[:2],
    Node(2, Interrupt(TEXT), {"value": Value(0)}, "tone"),
    Node(3, Format((Slot("a"), " ", Slot("b"))), {"a": Value(1), "b": Value(2)}),
)


async def submit(stage: Any, *nodes: Node, **options: Any) -> str:
    graph = encode_graph(Graph(nodes, (Value(nodes[-1].id),), "asks"))
    request = pb.SubmitRequest(graph=graph, inputs={"q": '"how many?"'}, **options)
    info = await stage.stub.Submit(request)
    return str(info.run)


async def info_of(stage: Any, run: str) -> pb.RunInfo:
    answer = await stage.stub.ListRuns(pb.ListRunsRequest())
    found: pb.RunInfo = next(info for info in answer.runs if info.run == run)
    return found


async def outcome(stage: Any, run: str) -> pb.RunResult:
    async for message in stage.stub.Watch(pb.WatchRequest(run=run)):
        for event in message.events:
            if event.HasField("finished"):
                result: pb.RunResult = event.finished
                return result
    raise AssertionError("the run has not finished")


async def resume(stage: Any, run: str, value: object, **node: int) -> pb.RunInfo:
    info: pb.RunInfo = await stage.stub.Resume(pb.ResumeRequest(run=run, value=json.dumps(value), **node))
    return info


async def refused(stage: Any, run: str, value: object, **node: int) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await resume(stage, run, value, **node)
    return f"{raised.value.code().name}: {raised.value.details()}"


async def test_a_run_waits_without_a_worker_until_it_is_answered(stage: Any) -> None:
    run = await submit(stage, *ASK)
    info = await info_of(stage, run)
    (asked,) = info.waiting
    assert info.state == "waiting"
    assert (asked.label, json.loads(asked.value)) == ("%1 interrupt 'count'", "how many?")
    assert json.loads(asked.type) == {"type": "integer"}
    assert not stage.workers["w1"].fragments()
    for state, runs in (("waiting", 1), ("running", 0)):
        answer = await stage.stub.ListRuns(pb.ListRunsRequest(state=state))
        assert len(answer.runs) == runs
    assert (await resume(stage, run, 3)).state == "running"
    result = await outcome(stage, run)
    assert result.outputs[0].text.text == "<Write 3>"
    assert not (await info_of(stage, run)).waiting


async def test_what_does_not_need_the_answer_goes_on(stage: Any) -> None:
    other = Node(3, Generate((Message("raw", ("Meanwhile",)),)), {})
    last = Node(4, Format((Slot("a"), Slot("b"))), {"a": Value(2), "b": Value(3)})
    run = await submit(stage, *ASK, other, last)
    async for message in stage.stub.Watch(pb.WatchRequest(run=run)):
        if any("decode" in event.node.label and event.node.phase == "done" for event in message.events):
            break  # before anybody has answered
    await resume(stage, run, 1)
    assert (await outcome(stage, run)).outputs[0].text.text == "<Write 1><Meanwhile>"


async def test_an_answer_of_another_type_is_refused_and_the_run_waits_on(stage: Any) -> None:
    run = await submit(stage, *ASK)
    assert (
        await refused(stage, run, "three")
        == "INVALID_ARGUMENT: the answer must be integer, not string 'three'"
    )
    with pytest.raises(grpc.aio.AioRpcError, match="Expecting"):
        await stage.stub.Resume(pb.ResumeRequest(run=run, value="{"))
    assert (await info_of(stage, run)).state == "waiting"
    await resume(stage, run, 2)
    assert (await outcome(stage, run)).info.state == "done"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (r'{"a": ["\ud800"]}', "the answer holds half of a surrogate pair, which is no text"),
        ("NaN", "the answer is not JSON: NaN is not JSON"),
        ("[1e999]", "the answer is not JSON: Out of range float values"),
        ("[" * 100_000, "the answer is not JSON: nested too deeply"),
    ],
)
async def test_an_answer_that_cannot_be_sent_is_refused_and_the_run_waits_on(
    stage: Any, answer: str, said: str
) -> None:
    run = await submit(stage, ASK[0], Node(1, Interrupt(JSON), {"value": Value(0)}))
    with pytest.raises(grpc.aio.AioRpcError, match=said):
        await stage.stub.Resume(pb.ResumeRequest(run=run, value=answer))
    assert (await info_of(stage, run)).state == "waiting"
    await resume(stage, run, 2)
    assert (await outcome(stage, run)).info.state == "done"


async def test_several_questions_are_answered_by_node(stage: Any) -> None:
    run = await submit(stage, *TWICE)
    first, second = [asked.node for asked in (await info_of(stage, run)).waiting]
    assert f"waits for several answers; name a node: {first}, {second}" in await refused(stage, run, 1)
    assert f"waits for no answer to node 99, but to: {first}, {second}" in await refused(
        stage, run, 1, node=99
    )
    await resume(stage, run, "calm", node=second)
    assert f"waits for no answer to node {second}" in await refused(stage, run, "loud", node=second)
    await resume(stage, run, 4)
    assert (await outcome(stage, run)).outputs[0].text.text == "4 calm"


async def test_what_does_not_wait_cannot_be_answered(stage: Any) -> None:
    assert (await refused(stage, "r-none", 1)).startswith("NOT_FOUND: unknown run")
    run = await submit(stage, ASK[0])
    await outcome(stage, run)
    assert "does not wait for anybody; it is done" in await refused(stage, run, 1)


async def test_a_waiting_run_can_be_cancelled(stage: Any) -> None:
    run = await submit(stage, *ASK)
    await stage.stub.Cancel(pb.CancelRunRequest(run=run))
    assert (await outcome(stage, run)).fault.code == "cancelled"
    assert "it is cancelled" in await refused(stage, run, 1)


async def test_an_answer_can_be_waited_for_in_vain(stage: Any) -> None:
    impatient = Node(1, Interrupt(TEXT), {"value": Value(0)}, policy=Policy(timeout_s=0.05))
    run = await submit(stage, ASK[0], impatient)
    fault = (await outcome(stage, run)).fault
    assert (fault.code, fault.message) == ("timeout", "took longer than its timeout of 0.05 s")


async def test_a_run_that_ends_with_its_client_can_be_answered_by_another(stage: Any) -> None:
    graph = encode_graph(Graph(ASK, (Value(2),), "asks"))
    call = asyncio.ensure_future(stage.stub.Invoke(pb.SubmitRequest(graph=graph, inputs={"q": '"?"'})))
    while not (runs := (await stage.stub.ListRuns(pb.ListRunsRequest(state="waiting"))).runs):
        await asyncio.sleep(0.005)
    await resume(stage, runs[0].run, 5)
    assert (await call).outputs[0].text.text == "<Write 5>"
