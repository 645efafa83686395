"""What type checkers know of programs: `make lint` checks the assertions, the tests trace such code."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass
from typing import Any, Literal, assert_type

from pydantic import BaseModel

from weft import (
    Context,
    Event,
    Message,
    Run,
    RunFinished,
    ToolCall,
    Turn,
    Var,
    cond,
    fold,
    gen,
    interrupt,
    loop,
    map,
    program,
    select,
    server_tool,
    tool,
)
from weft.graph.ops.common import Gather

from .traced import last, text_of

Verdict = Literal["good", "bad"]


class Step(BaseModel):
    tool: str
    input: str


@dataclass
class Finding:
    step: str
    answer: str


@tool
async def lookup(name: str) -> list[str]:
    return [name]


@program
def title(text: str) -> str:
    return gen(text)


@program
def judge(text: str, draft: Var[Step]) -> Verdict:
    return gen(f"{text} {draft}", type=Verdict)


@program
async def agent(question: str) -> str:
    chat = Context().user(question)
    assert_type(await chat.gen(type=Step), Step)
    assert_type(await lookup(question), list[str])
    assert_type(await gen(question, type=Verdict), Verdict)
    assert_type(await gen(question, type=int | None), int | None)
    assert_type(await interrupt(question, type=bool), bool)
    assert_type(await map(lambda name: gen(name), [question]), list[str])
    assert_type(await loop(lambda text: gen(text), question), str)
    acting = Context(tools=[lookup, server_tool("f", parameters={}), {"name": "g"}]).user(question)
    turn = await asyncio.wait_for(acting.turn(tool_choice=lookup, max_tokens=9), 5)
    assert_type(turn, Turn)
    assert_type(acting.run(turn.calls).messages, list[Message])
    assert_type(turn.calls, list[ToolCall])
    number: int = await asyncio.wait_for(gen(question, type=int), 5)
    texts, numbers = await asyncio.gather(gen(question), gen(question, type=int, n=number))
    chosen: Verdict = await select(texts, ["good", "bad"])
    return f"{chosen} {numbers[0].bit_length()}"


def results_of_programs() -> None:
    run = title.submit("a")
    assert_type(run, Run[str])
    assert_type(run.result(), str)
    assert_type(title("a"), str)
    assert_type(title.stream("a"), Generator[str])
    assert_type(title.astream("a"), AsyncGenerator[str])
    assert_type(judge.batch([]), list[Verdict])
    assert_type(judge.batch([], return_exceptions=True), list[Verdict | Exception])
    assert_type(next(judge.batch_as_completed([])), tuple[int, Verdict])
    answer: str = agent("a")
    assert_type(agent.submit(answer, stream=True), Run[str])
    for event in agent.events("a"):
        assert_type(event, Event[str])
        if isinstance(event, RunFinished):
            assert_type(event.result, str | None)


async def results_of_programs_in_async_code() -> None:
    assert_type(await agent("a"), str)
    assert_type(await agent.ainvoke("a"), str)
    assert_type(await judge.abatch([]), list[Verdict])
    assert_type(await agent.asubmit("a"), Run[str])
    task = asyncio.create_task(agent("a"))
    text: str = await task
    assert_type(await agent(text), str)


def arguments_are_checked() -> None:
    title(3)  # type: ignore[arg-type]  # must be an error: mypy says so if it is none any more
    title.submit(3)  # type: ignore[call-overload]  # must be an error, too
    title.stream(txt="a")  # type: ignore[call-arg]  # must be an error, too


def test_values_have_types() -> None:
    def values(text: str, words: list[str]) -> Any:
        assert_type(gen(text), Var[str])
        assert_type(gen(text, n=3), Var[list[str]])
        assert_type(gen(text, type=Step, n=3), Var[list[Step]])
        assert_type(gen(text, type=list[Step])[0], Var[Step])
        assert_type(lookup(text), Var[list[str]])
        assert_type(server_tool("find", result=list[int])(text=text), Var[list[int]])
        assert_type(server_tool("find")(text=text), Var[Any])
        assert_type(map(title, words), Var[list[str]])
        assert_type(map(lambda word: Finding(word, gen(word)), words), Var[list[Finding]])
        assert_type(fold(lambda whole, word: gen(f"{whole} {word}"), words, ""), Var[str])
        assert_type(cond(gen(text, type=bool), lambda: gen("a"), lambda: gen("b")), Var[str])
        kept = loop(lambda state: Finding(gen(state.step), state.answer), Finding(text, ""))
        assert_type(kept, Finding)
        return kept

    assert "loop" in text_of(values)


def test_one_sample_that_was_asked_for_is_a_list() -> None:
    def one() -> list[str]:
        return gen("x", n=1)

    assert last(one) == Gather("list")
