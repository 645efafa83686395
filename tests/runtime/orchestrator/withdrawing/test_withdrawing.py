"""Values that a growing program waits for no longer: what only they need is called back, and begun again."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import grpc
import pytest

from weft.graph.codec import encode_value
from weft.graph.ir import Graph, Node, Value
from weft.graph.ops.common import Const, Input, Interrupt, Tool
from weft.graph.ops.control import Map
from weft.graph.ops.user import Generate
from weft.graph.prompt import Message
from weft.graph.types import STRINGS, TEXT
from weft.proto import orchestrator_pb2 as pb
from weft.proto import worker_pb2

from ..test_run_stream import Conversation, ask, finish
from .withdrawals import (
    CACHED,
    LISTED,
    NOTE,
    SAY,
    answer,
    cancels,
    decodes,
    each,
    extend,
    give_up,
    growing,
    noting,
    withdraw,
)


async def test_a_text_is_no_longer_written_and_the_run_goes_on(
    talk: Conversation, worker: Any, until: Any
) -> None:
    await give_up(talk, worker, until)
    await talk.say(extend(Node(1, Const('"why?"', TEXT)), ask(2, 1), wanted=[2]))
    assert (await talk.next("known")).datum.text.text == "<Q: why?>"
    await talk.say(finish("done"))
    assert (await talk.finished()).info.state == "done"
    phases = [event.node.phase for event in talk.seen if event.node.node == cancels(worker)[0]]
    assert phases == ["started", "cancelled"]


async def test_what_is_awaited_again_is_computed_after_all(
    talk: Conversation, worker: Any, until: Any
) -> None:
    await give_up(talk, worker, until)
    await talk.say(extend(wanted=[0]))
    assert (await talk.next("known")).datum.text.text == "<hello>"
    assert decodes(worker) == cancels(worker) * 2


async def test_what_is_withdrawn_and_awaited_at_once_is_awaited(
    talk: Conversation, worker: Any, until: Any
) -> None:
    await talk.say(extend(ask(0), wanted=[0]))
    await until(lambda: decodes(worker))
    await talk.say(extend(Node(1, Const("1")), withdrawn=[0], wanted=[0, 1]))
    assert (await talk.next("known")).value == encode_value(Value(1))
    worker.gate.set()
    assert (await talk.next("known")).datum.text.text == "<hello>"
    assert cancels(worker) == []


@pytest.mark.parametrize("later", [False, True])
async def test_what_another_text_is_made_of_is_written(
    talk: Conversation, worker: Any, until: Any, later: bool
) -> None:
    taker = extend(ask(1, 0), wanted=[1], outside={Value(0): TEXT})
    await talk.say(extend(ask(0), wanted=[0]))
    await until(lambda: decodes(worker))
    if not later:
        await talk.say(taker)
    await withdraw(talk, 0)
    if later:
        await until(lambda: cancels(worker))
        await talk.say(taker)
    worker.gate.set()
    assert (await talk.next("known")).value == encode_value(Value(1))
    assert len(cancels(worker)) == later


async def test_equal_work_that_somebody_else_waits_for_goes_on(
    talk: Conversation, worker: Any, until: Any
) -> None:
    await talk.say(extend(ask(0), ask(1), wanted=[0, 1]))
    await until(lambda: decodes(worker))
    await withdraw(talk, 0)
    worker.gate.set()
    assert (await talk.next("known")).value == encode_value(Value(1))
    assert (len(decodes(worker)), cancels(worker)) == (1, [])


async def test_a_tool_that_has_not_begun_neither_begins_nor_is_waited_for(
    talk: Conversation, worker: Any, until: Any
) -> None:
    await talk.say(extend(ask(0), noting(1, 0), wanted=[1]))
    await until(lambda: decodes(worker))
    await withdraw(talk, 1)
    await until(lambda: cancels(worker))
    await talk.say(finish("done"))
    assert (await talk.finished()).info.state == "done"
    assert not any(event.HasField("tool") for event in talk.seen)


async def test_a_tool_that_waits_on_its_worker_has_not_begun(
    talk: Conversation, worker: Any, until: Any
) -> None:
    look_up = Node(1, Tool("lookup", TEXT, "server", True), {"x": Value(0)}, "looking", "app.py:8")
    await talk.say(extend(ask(0), look_up, wanted=[1]))
    await until(lambda: any(isinstance(node.op, Tool) for node in worker.nodes()))
    await withdraw(talk, 1)
    await until(lambda: cancels(worker) == decodes(worker))
    await talk.say(finish("done"))
    assert (await talk.finished()).info.state == "done"


async def test_a_tool_that_has_begun_runs_to_its_end(talk: Conversation) -> None:
    await talk.say(extend(noting(0), wanted=[0]))
    call = await talk.next("tool")
    await withdraw(talk, 0)
    await talk.say(finish("done"))
    await answer(talk, call)
    assert (await talk.finished()).info.state == "done"
    known = [event.known.value for event in talk.seen if event.HasField("known")]
    assert encode_value(Value(0)) not in known


async def test_a_tool_that_is_called_for_its_effect_runs_whoever_takes_its_result(
    talk: Conversation, worker: Any
) -> None:
    worker.gate.set()
    await talk.say(extend(ask(0), noting(1, 0), ask(2, 1), wanted=[2]))
    await withdraw(talk, 2)
    await answer(talk, await talk.next("tool"))
    await talk.say(finish("done"))
    assert (await talk.finished()).info.state == "done"
    assert len(decodes(worker)) == 1


async def test_a_question_is_taken_back_and_asked_again(talk: Conversation, stage: Any, until: Any) -> None:
    question = Node(1, Interrupt(TEXT), {"value": Value(0)})
    await talk.say(extend(Node(0, Const('"sure?"', TEXT)), question, wanted=[1]))
    asked = await talk.next("interrupted")
    (run,) = stage.server.orchestrator.shell.runs.values()
    await withdraw(talk, 1)
    await until(lambda: not run.questions())
    resume = pb.ResumeRequest(run=run.id, value='"yes"')
    with pytest.raises(grpc.aio.AioRpcError, match="does not wait for anybody"):
        await stage.stub.Resume(resume)
    await talk.say(extend(wanted=[1]))
    assert (await talk.next("interrupted")).value == asked.value
    await stage.stub.Resume(resume)
    assert (await talk.next("known")).datum.text.text == "yes"


async def test_a_map_begins_no_further_bodies_until_it_is_awaited_again(talk: Conversation) -> None:
    words = Node(0, Const('["a", "b"]', STRINGS))
    await talk.say(extend(words, each(1, 0, NOTE, 1), wanted=[1]))
    first = await talk.next("tool")
    await withdraw(talk, 1)
    await answer(talk, first)
    await talk.say(extend(noting(2), wanted=[2]))
    assert (await talk.next("tool")).arguments == "{}", "not the second item"
    await talk.say(extend(wanted=[1]))
    second = await talk.next("tool")
    assert json.loads(second.arguments) == {"x": "b"}
    await answer(talk, second)
    assert json.loads((await talk.next("known")).datum.json) == ["noted", "noted"]


@pytest.mark.parametrize("written", [False, True])
async def test_a_map_over_what_is_being_written_begins_no_further_bodies_either(
    stage: Any, talk: Conversation, worker: Any, until: Any, written: bool
) -> None:
    """Nor when the list is there; awaited again, it begins those of all items there are."""
    further, rest = asyncio.Event(), asyncio.Event()
    write = worker.write

    async def in_parts(run: str, task: worker_pb2.Task, text: str) -> None:
        await write(run, task, text[:6])
        await further.wait()
        await write(run, task, text[6:11])
        await rest.wait()
        await write(run, task, text[11:])

    worker.write, worker.text = in_parts, lambda read: '["a", "b", "c"]'
    worker.gate.set()
    listing = Node(0, Generate((Message("raw", ("hello",)),), STRINGS, constraint=LISTED))
    await talk.say(extend(listing, each(1, 0, NOTE, 0), wanted=[0, 1]))
    calls = [await talk.next("tool")]
    (run,), (decode,) = stage.server.orchestrator.shell.runs.values(), decodes(worker)
    await withdraw(talk, 1)
    await until(lambda: run.graph.shelved)
    further.set()
    await until(lambda: run.graph.streams.count(decode, ()) == 2)
    if written:
        rest.set()
        assert json.loads((await talk.next("known")).datum.json) == ["a", "b", "c"]
    assert len(run.attempts) == 2 - written, "the first call, and the list if it is being written"
    await talk.say(extend(wanted=[1]))
    calls.append(await talk.next("tool"))
    rest.set()
    calls.append(await talk.next("tool"))
    assert [json.loads(call.arguments)["x"] for call in calls] == ["a", "b", "c"]
    for call in calls:
        await answer(talk, call)
    await until(lambda: run.graph.resolve(Value(1)) in run.values)


async def test_the_bodies_of_a_map_are_called_back_with_it(
    talk: Conversation, worker: Any, until: Any
) -> None:
    inside = (Node(0, Input("item", TEXT)), Node(1, SAY, {"q": Value(0)}))
    mapped = Node(1, Map(Graph(inside, (Value(1),))), {"items": Value(0)})
    await talk.say(extend(Node(0, Const('["a", "b"]', STRINGS)), mapped, wanted=[1]))
    await until(lambda: len(decodes(worker)) == 2)
    await withdraw(talk, 1)
    await until(lambda: sorted(cancels(worker)) == sorted(decodes(worker)))
    worker.gate.set()
    await talk.say(extend(wanted=[1]))
    assert json.loads((await talk.next("known")).datum.json) == ["<Q: a>", "<Q: b>"]


async def test_what_a_body_is_merged_with_is_computed_after_all(
    talk: Conversation, worker: Any, until: Any
) -> None:
    await give_up(talk, worker, until)
    inside = Graph((Node(0, Input("item", TEXT)), ask(1)), (Value(1),))
    mapped = Node(2, Map(inside), {"items": Value(1)})
    await talk.say(extend(Node(1, Tool("note", STRINGS)), mapped, wanted=[2]))
    call = await talk.next("tool")
    await talk.say(pb.RunRequest(tool=pb.ToolAnswer(node=call.node, attempt=1, json='["a", "b"]')))
    assert json.loads((await talk.next("known")).datum.json) == ["<hello>", "<hello>"]
    assert decodes(worker) == cancels(worker) * 2


async def test_what_others_of_a_batch_wait_for_is_computed_by_one_of_them(
    stage: Any, worker: Any, until: Any
) -> None:
    """The first computes and withdraws, the second waits for it and withdraws before; the third has it."""
    runs = [await growing(stage, "b") for _ in range(3)]
    for talk in runs:
        await talk.say(extend(ask(0), wanted=[0]))
        await talk.next("started")
    first, second, third = runs
    await until(lambda: decodes(worker))
    await withdraw(second, 0)
    await withdraw(first, 0)
    await until(lambda: len(decodes(worker)) == 2)
    worker.gate.set()
    assert (await third.next("known")).datum.text.text == "<hello>"
    for talk in (first, second):
        await talk.say(extend(wanted=[0]))
        assert (await talk.next("known")).datum.text.text == "<hello>"


@pytest.mark.parametrize("batch", ["", "b"])
async def test_what_is_taken_up_again_is_kept_for_equal_work(
    stage: Any, worker: Any, until: Any, batch: str
) -> None:
    first, second = [await growing(stage, batch) for _ in range(2)]
    await first.say(extend(CACHED, wanted=[0]))
    await until(lambda: decodes(worker))
    await withdraw(first, 0)
    await first.say(extend(wanted=[0]))
    await until(lambda: len(decodes(worker)) == 2)
    worker.gate.set()
    await first.next("known")
    await second.say(extend(CACHED, wanted=[0]))
    assert (await second.next("known")).datum.text.text == "<hello>"
    assert len(decodes(worker)) == 2


async def test_what_equal_work_has_given_meanwhile_is_not_computed_again(
    stage: Any, worker: Any, until: Any
) -> None:
    first, second = [await growing(stage) for _ in range(2)]
    await first.say(extend(CACHED, wanted=[0]))
    await until(lambda: decodes(worker))
    await withdraw(first, 0)
    worker.gate.set()
    for talk in (second, first):
        await talk.say(extend(CACHED if talk is second else Node(1, Const("1")), wanted=[0]))
        assert (await talk.next("known")).datum.text.text == "<hello>"
    assert len(decodes(worker)) == 2


async def test_what_is_taken_up_is_computed_for_its_batch_too(stage: Any, worker: Any, until: Any) -> None:
    first, second = [await growing(stage, "b") for _ in range(2)]
    await first.say(extend(ask(0), wanted=[0]))
    await until(lambda: decodes(worker))
    await withdraw(first, 0)
    await first.say(extend(wanted=[0]))
    await until(lambda: len(decodes(worker)) == 2)
    await second.say(extend(ask(0), Node(1, Const("1")), wanted=[0, 1]))
    await second.next("known")
    worker.gate.set()
    for talk in (first, second):
        assert (await talk.next("known")).datum.text.text == "<hello>"
    assert len(decodes(worker)) == 2


async def test_what_is_taken_up_while_another_of_its_batch_computes_it_is_done_once(
    stage: Any, worker: Any, until: Any
) -> None:
    first, second = [await growing(stage, "b") for _ in range(2)]
    await first.say(extend(ask(0), wanted=[0]))
    await until(lambda: decodes(worker))
    await withdraw(first, 0)
    await second.say(extend(ask(0), wanted=[0]))
    await until(lambda: len(decodes(worker)) == 2)
    await first.say(extend(wanted=[0]))
    await until(lambda: len(decodes(worker)) == 3)
    worker.gate.set()
    for talk in (first, second):
        assert (await talk.next("known")).datum.text.text == "<hello>"
    for talk in (first, second):
        await talk.say(finish("done"))
        info = (await talk.finished()).info
        assert info.nodes_done == info.nodes


async def test_what_no_increment_made_cannot_be_withdrawn(talk: Conversation) -> None:
    await talk.say(extend(withdrawn=[7]))
    fault = (await talk.finished()).fault
    assert (fault.code, fault.message) == ("invalid", "no increment made %7")
