"""A fake model in place of those of the server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
from pydantic import BaseModel, field_validator

from weft import (
    Context,
    ModelCall,
    ProgramError,
    Static,
    ToolCall,
    ToolStarted,
    fake_model,
    gen,
    map,
    program,
    select,
    tool,
)
from weft.frontend.errors import ToolError

if TYPE_CHECKING:
    from ..conftest import MiniServer


class Verdict(StrEnum):
    GOOD = "good"
    BAD = "bad"


class Step(BaseModel):
    tool: str
    input: str

    @field_validator("tool")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in ("look", "finish"):
            raise ValueError(f"there is no tool {name}")
        return name


@tool
def look(what: str) -> str:
    return f"saw {what}"


@program
def report(topic: str, samples: Static[int] = 1) -> dict[str, Any]:
    facts = gen(f"Facts: {topic}", type=list[str], name="facts")
    return {
        "lines": map(lambda fact: gen(f"Tell: {fact}", system="Be brief."), facts),
        "verdict": select(f"Is this good? {facts}", list(Verdict)),
        "titles": gen("Title!", n=samples, temperature=1.0, model="large"),
        "same": [gen("again", raw=True), gen("again", raw=True)],
    }


@program
async def agent(question: str) -> str:
    chat = Context(system="Act.").user(question)
    for _ in range(4):
        try:
            step = await chat.gen(type=Step)
        except ProgramError as problem:
            chat.user(f"Wrong: {problem.message}")
            continue
        if step.tool == "finish":
            return step.input
        chat.user(f"Observation: {look(step.input)}")
    return "gave up"


@pytest.fixture(autouse=True)
def unused(server: MiniServer) -> Iterator[None]:
    """No model of the server is asked."""
    before = len(server.prompts)
    yield
    assert len(server.prompts) == before


def answer(call: ModelCall) -> Any:
    match call:
        case ModelCall(name="facts"):
            return ["one", "two"]
        case ModelCall(model="large"):
            return "A title"
        case ModelCall(type=kind) if kind is Verdict:
            return Verdict.BAD
    return f"<{call.prompt}>"


def test_a_static_program_asks_it_all() -> None:
    with fake_model(answer) as model:
        assert report("rain", samples=2) == {
            "lines": ["<Tell: one>", "<Tell: two>"],
            "verdict": "bad",
            "titles": ["A title", "A title"],
            "same": ["<again>", "<again>"],
        }
    asked = [(call.name, call.type, call.messages) for call in model.calls]
    told = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Tell: one"}]
    assert ("", str, told) in asked
    assert ("facts", list[str], [{"role": "user", "content": "Facts: rain"}]) in asked
    assert ("", str, [{"role": "raw", "content": "again"}]) in asked


def test_an_agent_reads_what_it_has_said_and_is_told_what_no_validator_takes() -> None:
    replies = iter(
        [{"tool": "fly", "input": "up"}, Step(tool="look", input="x"), Step(tool="finish", input="y")]
    )
    with fake_model(lambda call: next(replies)) as model:
        assert agent("why?") == "y"
    last = [message["content"] for message in model.calls[-1].messages]
    assert last[:3] == ["Act.", "why?", '{"tool": "fly", "input": "up"}']
    assert "there is no tool fly" in last[3]
    assert last[4:] == ['{"tool": "look", "input": "x"}', "Observation: saw x"]


def test_each_block_has_its_own_and_outside_of_them_models_are_asked(server: MiniServer) -> None:
    @program
    def echo(text: str) -> str:
        return gen(text)

    with fake_model(lambda call: "outer"):
        assert echo("a") == "outer"
        with fake_model(lambda call: "inner"):
            assert echo("a") == "inner"
        assert echo("a") == "outer"
    assert echo("a") == "[<user>a<assistant>]"
    server.prompts.pop()


def test_what_the_type_does_not_allow_fails_the_run() -> None:
    @program
    def judge() -> Literal["yes", "no"]:
        return gen("?", type=Literal["yes", "no"])

    with fake_model(lambda call: "maybe"), pytest.raises(ProgramError, match="should be 'yes' or 'no'"):
        judge()


def test_what_it_raises_fails_the_run_with_its_cause() -> None:
    def broken(call: ModelCall) -> str:
        raise LookupError(f"no reply to {call.prompt!r}")

    with fake_model(broken), pytest.raises(ToolError, match="no reply to 'why") as caught:
        agent("why?")
    assert isinstance(caught.value.__cause__, LookupError)


def of_the_page_on_langgraph(name: str) -> Any:
    page = (Path(__file__).parents[3] / "docs" / "langgraph.md").read_text("utf-8")
    names: dict[str, Any] = {"__name__": "page"}
    for code in re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE):
        exec(compile(code, "langgraph.md", "exec", dont_inherit=True), names)
    return names[name]


def test_the_team_of_the_page_on_langgraph_hands_over() -> None:
    replies = {
        "lead": iter([{"next": "writer", "task": "a poem"}, {"next": "finish", "task": "Rain falls."}]),
        "writer": iter([{"action": "research", "input": "what falls?"}]),
        "research": iter([{"action": "look_up", "input": "rain"}, {"action": "answer", "input": "drops"}]),
    }
    with fake_model(lambda call: next(replies[call.name])) as model:
        assert of_the_page_on_langgraph("team")("What is a poem about rain?") == "Rain falls."
    assert [call.name for call in model.calls] == ["lead", "writer", "research", "research", "lead"]
    said = [call.messages[-1]["content"] for call in model.calls]
    assert said[2:] == ["a poem\n\nwriter says: what falls?", "Observation: rain: no entry", "writer: drops"]


def test_the_agent_of_the_page_on_langgraph_calls_its_tool() -> None:
    replies = iter([ToolCall("look_up", {"query": "rain"}), "Drops."])
    with fake_model(lambda call: next(replies)) as model:
        assert of_the_page_on_langgraph("react")("What falls?") == "Drops."
    assert model.calls[1].prompt == "rain: no entry"


def test_events_have_it_as_a_tool() -> None:
    with fake_model(answer):
        events = list(report.events("rain"))
    tools = {event.tool for event in events if isinstance(event, ToolStarted)}
    assert tools == {"fake_model"}
