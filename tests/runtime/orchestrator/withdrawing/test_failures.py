"""What fails after a growing program has stopped waiting for it, and whether that matters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from weft.graph.ir import Node, Policy, Value
from weft.graph.ops.common import Const
from weft.graph.ops.primitive import Chunk
from weft.graph.ops.user import Ingest
from weft.graph.types import STRINGS, TEXT
from weft.proto import value_pb2

from ..test_run_stream import Conversation, ask, finish
from .withdrawals import NOTE, answer, each, extend, noting, refuse, withdraw


async def test_what_a_tool_raises_after_it_was_withdrawn_does_not_matter(talk: Conversation) -> None:
    await talk.say(extend(noting(0), wanted=[0]))
    call = await talk.next("tool")
    await withdraw(talk, 0)
    await refuse(talk, call)
    await talk.say(extend(noting(1), wanted=[1]))
    await answer(talk, await talk.next("tool"))
    await talk.next("known")
    await talk.say(finish("done"))
    assert (await talk.finished()).info.state == "done"
    events = [event.node for event in talk.seen if event.HasField("node")]
    assert [event.phase for event in events if event.node == call.node] == ["started", "failed"]


async def test_a_program_that_has_returned_waits_for_what_it_withdrew_to_fail(talk: Conversation) -> None:
    await talk.say(extend(noting(0), wanted=[0]))
    call = await talk.next("tool")
    await withdraw(talk, 0)
    await talk.say(finish("done"))
    await refuse(talk, call)
    assert (await talk.finished()).info.state == "done"


async def test_a_tool_that_was_withdrawn_may_run_out_of_time(
    stage: Any, talk: Conversation, until: Any
) -> None:
    await talk.say(extend(replace(noting(0), policy=Policy(timeout_s=0.1)), wanted=[0]))
    call = await talk.next("tool")
    (run,) = stage.server.orchestrator.shell.runs.values()
    await withdraw(talk, 0)
    await until(lambda: not run.attempts or run.record.ended.is_set())
    await answer(talk, call)
    await talk.say(finish("done"))
    assert (await talk.finished()).info.state == "done"


async def test_what_a_tool_has_raised_ends_the_run_that_awaits_it_again(talk: Conversation) -> None:
    await talk.say(extend(noting(0), wanted=[0]))
    call = await talk.next("tool")
    await withdraw(talk, 0)
    await refuse(talk, call)
    await talk.say(extend(ask(1, 0), wanted=[1], outside={Value(0): TEXT}))
    fault = (await talk.finished()).fault
    assert (fault.code, fault.message) == ("tool_failed", "no")
    assert fault.location == "app.py:7"


async def test_what_somebody_else_takes_of_a_tool_ends_the_run(talk: Conversation) -> None:
    await talk.say(extend(noting(0), ask(1, 0), wanted=[0, 1]))
    call = await talk.next("tool")
    await withdraw(talk, 0)
    await refuse(talk, call)
    assert (await talk.finished()).fault.code == "tool_failed"


async def test_what_a_tool_raises_in_a_map_that_was_withdrawn_matters_once_that_is_awaited_again(
    talk: Conversation,
) -> None:
    words = Node(0, Const('["a", "b"]', STRINGS))
    await talk.say(extend(words, each(1, 0, NOTE, 0), wanted=[1]))
    first, second = [await talk.next("tool") for _ in range(2)]
    await withdraw(talk, 1)
    await refuse(talk, first)
    await answer(talk, second)
    await talk.say(extend(noting(2), wanted=[2]))
    await answer(talk, await talk.next("tool"))
    await talk.next("known")
    await talk.say(extend(wanted=[1]))
    assert (await talk.finished()).fault.code == "tool_failed"


@pytest.mark.parametrize("again", [False, True])
async def test_an_ingest_that_fails_after_it_was_withdrawn_matters_once_it_is_awaited_again(
    talk: Conversation, worker: Any, until: Any, again: bool
) -> None:
    worker.gated = {Chunk}
    documents = Node(0, Const('["text"]', STRINGS))
    await talk.say(extend(documents, Node(1, Ingest("fresh"), {"documents": Value(0)}), wanted=[1]))
    await until(lambda: any(isinstance(node.op, Chunk) for node in worker.nodes()))
    await withdraw(talk, 1)
    worker.faults.append(value_pb2.Fault(code="internal", message="the disk is full"))
    worker.gate.set()
    await until(lambda: not worker.faults)
    await talk.say(extend(*([] if again else [ask(2)]), wanted=[1 if again else 2]))
    if not again:
        await talk.next("known")
        await talk.say(finish("done"))
    result = await talk.finished()
    assert result.info.state == ("failed" if again else "done")
    assert result.fault.message == ("the disk is full" if again else "")
