"""What happens in a run, from one iterator: whose texts, tools, questions, and the result."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import aclosing, closing
from itertools import islice
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from weft import (
    Context,
    Event,
    NodeChanged,
    ProgramError,
    RetryPolicy,
    RunFinished,
    RunStarted,
    TextAdded,
    ToolEnded,
    ToolStarted,
    gen,
    program,
    tool,
)
from weft.frontend.errors import RunCancelled, ToolError

if TYPE_CHECKING:
    from ..conftest import MiniServer


class Plan(BaseModel):
    step: str


failures: list[str] = []


@tool(retry=RetryPolicy(attempts=2, backoff=0.0), idempotent=True)
def look_up(step: str) -> list[str]:
    if failures:
        raise OSError(failures.pop())
    return [step, "found"]


@program
async def agent(question: str) -> Plan:
    chat = Context().user(question)
    step = await chat.gen(name="plan", type=Plan)
    chat.user(f"seen: {look_up(step.step)}").gen(name="thought")
    gen("nobody asks for this")
    last = await chat.user("Answer!").gen(name="answer")
    return Plan(step=last[:4])


@program
def chain(question: str) -> str:
    draft = gen(question, name="draft")
    return gen(f"Improve {draft}", name="final")


def drain(events: Iterable[Event], seen: list[Event]) -> None:
    """Take events to their end, whatever that is."""
    for event in events:
        seen += [event]


def texts(events: Iterable[Event]) -> dict[str, str]:
    written: dict[str, str] = {}
    for event in events:
        if isinstance(event, TextAdded):
            written[event.name] = written.get(event.name, "") + event.text
    return written


def test_every_text_says_whose_it_is_and_the_last_event_has_the_result(server: MiniServer) -> None:
    events = list(agent.events("hi"))
    assert isinstance(events[0], RunStarted)
    assert events[0].run == server.last.id
    assert texts(events) == {
        "plan": '{"step": "word"}',
        "thought": '[<user>hi<assistant>{"step": "word"}<user>seen: word\nfound<assistant>]',
        "answer": texts(events)["answer"],
    }
    last = events[-1]
    assert isinstance(last, RunFinished)
    assert (last.state, last.result, last.error) == ("done", Plan(step="[<us"), "")
    decodes = [e for e in events if isinstance(e, NodeChanged) and e.op == "decode" and e.phase == "done"]
    assert [e.name for e in decodes] == ["plan", "thought", "", "answer"]
    nodes = {e.name: e.node for e in events if isinstance(e, TextAdded)}
    assert [nodes[e.name] for e in decodes if e.name] == [e.node for e in decodes if e.name]


def test_what_tools_are_given_and_give(server: MiniServer) -> None:
    failures.append("not yet")
    told = [event for event in agent.events("hi") if isinstance(event, ToolStarted | ToolEnded)]
    started, failed, again, ended = told
    assert started == ToolStarted(started.at, started.node, "look_up", {"step": "word"})
    assert failed == ToolEnded(failed.at, started.node, "look_up", None, "OSError: not yet")
    assert again == ToolStarted(again.at, started.node, "look_up", {"step": "word"})
    assert ended == ToolEnded(ended.at, started.node, "look_up", ["word", "found"], "")


def test_the_text_that_is_the_result_is_marked(server: MiniServer) -> None:
    events = list(chain.events("hi"))
    assert {(e.name, e.result) for e in events if isinstance(e, TextAdded)} == {
        ("draft", False),
        ("final", True),
    }
    assert isinstance(events[-1], RunFinished)
    assert events[-1].result == texts(events)["final"]


def test_a_stream_of_the_result_has_no_other_texts(server: MiniServer) -> None:
    assert "".join(chain.stream("hi")) == "[<user>Improve [<user>hi<assistant>]<assistant>]"
    assert not server.last.start.follow
    run = chain.submit("hi", stream=True)
    assert "".join(run.pieces()) == run.result(timeout=10)
    assert server.last.start.follow


async def test_on_an_event_loop(server: MiniServer) -> None:
    events = [event async for event in agent.aevents("hi")]
    assert list(texts(events)) == ["plan", "thought", "answer"]
    assert isinstance(events[-1], RunFinished)
    assert events[-1].result == Plan(step="[<us")


async def test_those_of_a_submitted_run_on_both_sides(server: MiniServer) -> None:
    run = agent.submit("hi", stream=True)
    later = [event async for event in run.aevents()]
    assert later == await asyncio.to_thread(lambda: list(run.events()))
    assert isinstance(later[-1], RunFinished)
    assert later[-1].result == run.result(timeout=10) == Plan(step="[<us")
    assert list(texts(later)) == ["plan", "thought", "answer"]


def test_a_failure_is_raised_after_the_last_event(server: MiniServer) -> None:
    failures.extend(["no", "no"])
    seen: list[Event] = []
    with pytest.raises(ToolError, match="OSError: no"):
        drain(agent.events("hi"), seen)
    assert {type(event) for event in seen} > {ToolEnded, RunFinished}
    with pytest.raises(ProgramError, match="the model broke"):
        drain(chain.events("FAIL"), seen)
    last = seen[-1]
    assert isinstance(last, RunFinished)
    assert (last.state, last.result, last.error) == ("failed", None, "the model broke")


def test_a_result_that_is_not_of_its_type_is_raised_in_place_of_the_last_event(server: MiniServer) -> None:
    @program
    def wrong() -> int:
        return gen("x", type=Plan).step

    with pytest.raises(ProgramError, match="does not return the declared int"):
        list(wrong.events())


def test_closing_cancels_the_run(server: MiniServer) -> None:
    with closing(chain.events("HANG")) as events:
        assert isinstance(next(events), RunStarted)
    assert server.last.cancelled.wait(10)


async def test_closing_on_an_event_loop_cancels_the_run(server: MiniServer) -> None:
    async with aclosing(agent.aevents("HANG")) as events:
        assert isinstance(await anext(events), RunStarted)
    assert await asyncio.to_thread(server.last.cancelled.wait, 10)


def test_a_run_that_is_cancelled_from_elsewhere(server: MiniServer) -> None:
    events, seen = chain.events("HANG"), list[Any]()
    drain(islice(events, 1), seen)
    chain.client.run(seen[0].run).cancel()
    with pytest.raises(RunCancelled):
        drain(events, seen)
    assert seen[-1].state == "cancelled"


def test_a_text_that_was_written_again_and_differs_ends_a_stream_but_no_events(
    server: MiniServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "again", ["{<u"])
    added = [e for e in chain.events("hi") if isinstance(e, TextAdded) and e.name == "draft"]
    assert [(e.text, e.again) for e in added[:2]] == [("[<u", False), ("{<u", True)]
    problem = "another one did not write again what had been streamed; run the program again"
    with pytest.raises(ProgramError, match=problem):
        list(chain.stream("hi"))
    with pytest.raises(ProgramError, match=problem):
        list(chain.submit("hi", stream=True).pieces())
