"""Clients that follow a run: whose text each piece is, and what tools are given and give."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from weft.graph.codec import encode_graph, encode_value
from weft.graph.ir import Graph, Node, Policy, Value
from weft.graph.ops.common import Input, Tool
from weft.graph.ops.control import Map
from weft.graph.ops.user import Generate
from weft.graph.prompt import Message, Slot
from weft.graph.types import STRINGS, TEXT
from weft.proto import orchestrator_pb2 as pb
from weft.proto import worker_pb2

from .test_run_stream import Conversation

NODES = (
    Node(0, Input("q", TEXT)),
    Node(1, Generate((Message("raw", (Slot("q"),)),)), {"q": Value(0)}, "draft"),
    Node(2, Generate((Message("raw", ("Improve ", Slot("d"))),)), {"d": Value(1)}, "final"),
    Node(3, Generate((Message("raw", ("Judge ", Slot("f"))),)), {"f": Value(2)}),
)


def start(
    nodes: Sequence[Node],
    output: Value,
    *,
    stream: Sequence[Value] = (),
    follow: bool = True,
    tools: Sequence[str] = (),
    quiet: bool = False,
    **inputs: object,
) -> pb.RunRequest:
    submit = pb.SubmitRequest(
        graph=encode_graph(Graph(tuple(nodes), (output,))),
        inputs={name: json.dumps(value) for name, value in inputs.items()},
        quiet=quiet,
    )
    begin = pb.Start(submit=submit, stream=map(encode_value, stream), follow=follow, tools=tools)
    return pb.RunRequest(start=begin)


def texts(talk: Conversation) -> dict[tuple[int, str], str]:
    """The texts as a client puts them together, by node and name."""
    written: dict[tuple[int, str], str] = {}
    for delta in [event.delta for event in talk.seen if event.HasField("delta")]:
        key = delta.node, delta.name
        written[key] = delta.text if delta.again else written.get(key, "") + delta.text
    return written


def calls(talk: Conversation) -> list[tuple[str, str, str]]:
    """What happened to tools."""
    told: list[tuple[str, str, str]] = []
    for event in talk.seen:
        if event.HasField("tool_started"):
            told.append(("started", event.tool_started.tool, event.tool_started.arguments))
        if event.HasField("tool_ended"):
            outcome = event.tool_ended.fault.message or event.tool_ended.json
            told.append(("ended", event.tool_ended.tool, outcome))
    return told


@pytest.fixture
def talk(stage: Any) -> Conversation:
    return Conversation(stage.stub)


async def test_texts_with_a_name_come_in_pieces_that_say_whose_they_are(talk: Conversation) -> None:
    await talk.say(start(NODES, Value(3), stream=[Value(2)], q="why?"))
    await talk.finished()
    assert [(name, text) for (_, name), text in texts(talk).items()] == [
        ("draft", "<why?>"),
        ("final", "<Improve <why?>>"),
    ]
    deltas = [event.delta for event in talk.seen if event.HasField("delta")]
    assert len(deltas) == len("<why?><Improve <why?>>")
    assert {(d.name, d.HasField("value")) for d in deltas} == {("draft", False), ("final", True)}
    labels = {(e.node.node, e.node.name, e.node.op) for e in talk.seen if e.HasField("node")}
    assert {(d.node, d.name, "decode") for d in deltas} < labels


async def test_who_does_not_follow_hears_of_no_other_text_than_was_asked_for(talk: Conversation) -> None:
    nodes = (*NODES, Node(4, Tool("lookup", TEXT, where="server"), {"q": Value(3)}))
    await talk.say(start(nodes, Value(4), stream=[Value(2)], follow=False, q="why?"))
    await talk.finished()
    assert [name for _, name in texts(talk)] == ["final"]
    assert calls(talk) == []


async def test_the_bodies_of_a_map_are_told_apart_by_their_nodes(talk: Conversation) -> None:
    summary = Node(1, Generate((Message("raw", (Slot("p"),)),)), {"p": Value(0)}, "summary")
    body = Graph((Node(0, Input(Map.ITEM, TEXT)), summary), (Value(1),))
    nodes = (Node(0, Input("pages", STRINGS)), Node(1, Map(body), {"items": Value(0)}))
    await talk.say(start(nodes, Value(1), pages=["one", "two"], quiet=True))
    await talk.finished()
    written = texts(talk)
    assert {name for _, name in written} == {"summary"}
    assert sorted(written.values()) == ["<one>", "<two>"]


async def test_a_text_that_was_kept_comes_whole(stage: Any) -> None:
    ask = Generate((Message("raw", (Slot("q"),)),), cache=True)
    nodes = (Node(0, Input("q", TEXT)), Node(1, ask, {"q": Value(0)}, "draft"))
    for pieces in (len("<why?>"), 1):
        talk = Conversation(stage.stub)
        await talk.say(start(nodes, Value(1), q="why?"))
        await talk.finished()
        assert list(texts(talk).values()) == ["<why?>"]
        assert sum(event.HasField("delta") for event in talk.seen) == pieces


@pytest.mark.parametrize(("second", "again"), [("<why?>", []), ("<whose?>", ["<who"]), ("<w>", ["<w>"])])
async def test_a_text_that_is_written_again_comes_once_or_takes_the_place_of_the_first(
    bare: Any, second: str, again: list[str]
) -> None:
    model = worker_pb2.EngineInfo(kind="llm", model="m", llm=worker_pb2.LlmInfo(context_length=1000))
    first = await bare.worker("w1", model)
    write, stuck = first.write, asyncio.Event()

    async def half(run: str, task: worker_pb2.Task, text: str) -> None:
        await write(run, task, text[:4])
        await stuck.wait()

    first.write = half
    talk = Conversation(bare.stub)
    await talk.say(start(NODES[:2], Value(1), q="why?", quiet=True))
    for _ in range(4):
        await talk.next("delta")
    other = await bare.worker("w2", model)
    other.text = lambda read: second
    await first.stop()
    assert (await talk.finished()).outputs[0].text.text == second
    assert list(texts(talk).values()) == [second]
    assert [e.delta.text for e in talk.seen if e.HasField("delta") and e.delta.again] == again


async def test_tools_of_the_server_are_told_once_their_arguments_are_known(talk: Conversation) -> None:
    nodes = (*NODES[:2], Node(2, Tool("lookup", TEXT, where="server"), {"q": Value(1)}))
    await talk.say(start(nodes, Value(2), q="why?", quiet=True))
    await talk.finished()
    assert calls(talk) == [
        ("started", "lookup", '{"q": "<why?>"}'),
        ("ended", "lookup", '"lookup(<why?>)"'),
    ]


async def test_a_tool_may_write_its_result_in_pieces(talk: Conversation) -> None:
    lookup = Node(1, Tool("lookup", TEXT, where="server"), {"q": Value(0)})
    await talk.say(start((NODES[0], lookup), Value(1), stream=[Value(1)], q="why?"))
    await talk.finished()
    assert texts(talk) == {(1, ""): "lookup(why?)"}
    assert sum(event.HasField("delta") for event in talk.seen) == len("lookup(why?)")
    assert [what for what, _, _ in calls(talk)] == ["started", "ended"]


async def test_a_pure_tool_that_has_run_before_begins_and_ends_at_once(talk: Conversation) -> None:
    pure = Tool("f", TEXT, pure=True)
    nodes = (
        Node(0, Input("q", TEXT)),
        Node(1, pure, {"q": Value(0)}),
        Node(2, Generate((Message("raw", (Slot("r"),)),)), {"r": Value(1)}),
        Node(3, pure, {"q": Value(2)}),
    )
    await talk.say(start(nodes, Value(3), tools=["f"], q="<x>"))
    call = await talk.next("tool")
    await talk.say(pb.RunRequest(tool=pb.ToolAnswer(node=call.node, attempt=1, json='"<x>"')))
    call = await talk.next("tool")
    await talk.say(pb.RunRequest(tool=pb.ToolAnswer(node=call.node, attempt=1, json='"end"')))
    await talk.finished()
    assert calls(talk) == [
        ("started", "f", '{"q": "<x>"}'),
        ("ended", "f", '"<x>"'),
        ("started", "f", '{"q": "<<x>>"}'),
        ("ended", "f", '"end"'),
    ]


async def test_a_tool_that_fails_ends_and_starts_again_for_its_next_attempt(talk: Conversation) -> None:
    flaky = Node(1, Tool("f", TEXT, idempotent=True), {"q": Value(0)}, "f", policy=Policy(attempts=2))
    await talk.say(start((NODES[0], flaky), Value(1), tools=["f"], q="x"))
    for attempt, message in ((1, "boom"), (2, "bang")):
        await talk.next("tool")
        answer = pb.ToolAnswer(node=1, attempt=attempt)
        answer.fault.code, answer.fault.message, answer.fault.retryable = "tool_failed", message, True
        await talk.say(pb.RunRequest(tool=answer))
    assert (await talk.finished()).fault.message == "bang"
    assert [(what, outcome) for what, _, outcome in calls(talk)] == [
        ("started", '{"q": "x"}'),
        ("ended", "boom"),
        ("started", '{"q": "x"}'),
        ("ended", "bang"),
    ]


async def test_a_tool_that_runs_when_the_run_is_cancelled_has_ended(talk: Conversation) -> None:
    await talk.say(start((NODES[0], Node(1, Tool("f", TEXT), {"q": Value(0)})), Value(1), tools=["f"], q="x"))
    await talk.next("tool")
    await talk.say(pb.RunRequest(cancel=pb.CancelRunRequest()))
    await talk.finished()
    assert [what for what, _, _ in calls(talk)] == ["started", "ended"]


async def test_what_a_run_was_told_is_condensed_once_it_is_over(talk: Conversation, stage: Any) -> None:
    await talk.say(start(NODES, Value(3), q="why?"))
    run = (await talk.next("started")).run
    await talk.finished()
    late = Conversation(stage.stub)
    late.call = stage.stub.Watch(pb.WatchRequest(run=run))
    await late.finished()
    assert texts(late) == texts(talk)
    assert sum(event.HasField("delta") for event in late.seen) == 2
