"""Agents that call tools, against a fake model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import pytest
from pydantic import BaseModel, Field

from weft import (
    Context,
    Message,
    ModelCall,
    ToolCall,
    TraceError,
    Turn,
    fake_model,
    map,
    program,
    server_tool,
    tool,
)

if TYPE_CHECKING:
    from ..conftest import MiniServer


class Place(BaseModel):
    town: str
    near: Place | None = None


@tool
def visit(place: Place, days: Annotated[int, Field(description="How long.")] = 1) -> str:
    """Goes there."""
    return f"{days} in {place.town}"


@tool
def rest() -> dict[str, int]:
    return {"hours": 8}


@pytest.fixture(autouse=True)
def unused(server: MiniServer) -> Iterator[None]:
    """No model of the server is asked."""
    before = len(server.prompts)
    yield
    assert len(server.prompts) == before


@program
async def travel(wish: str) -> str:
    chat = Context(system="Plan.", tools=[visit, rest]).user(wish)
    while (turn := await chat.turn(name="plan")).calls:
        chat.run(turn.calls)
    return turn.text


HAPO = ToolCall("visit", {"place": {"town": "Hapo", "near": {"town": "Fiba"}}, "days": 2})


@pytest.mark.parametrize(
    "first",
    [
        [HAPO, ToolCall("rest", {})],
        Turn("", [HAPO, ToolCall("rest", {})]),
        json.dumps([{"name": "visit", "parameters": HAPO.arguments}, {"name": "rest", "parameters": {}}]),
    ],
)
def test_calls_are_carried_out_and_told(first: Any) -> None:
    replies = iter([first, "Done."])
    with fake_model(lambda call: next(replies)) as model:
        assert travel("Away!") == "Done."
    asked, told = model.calls
    assert (asked.tools, asked.name, asked.type) == (("visit", "rest"), "plan", str)
    made, *results = told.messages[2:]
    assert [(call["id"], call["function"]["name"]) for call in made["tool_calls"]] == [
        ("call00000", "visit"),
        ("call00001", "rest"),
    ]
    assert results == [
        {"role": "tool", "content": "2 in Hapo", "tool_call_id": "call00000"},
        {"role": "tool", "content": '{"hours": 8}', "tool_call_id": "call00001"},
    ]
    assert told.prompt == '{"hours": 8}'


def test_one_call_may_be_returned_alone_and_arguments_of_models_arrive_as_such() -> None:
    replies = iter([Turn("I go.", [HAPO]), ToolCall("visit", {"place": {"town": 1}}), "Done."])
    with fake_model(lambda call: next(replies)) as model:
        assert travel("Away!") == "Done."
    assert model.calls[1].messages[2]["content"] == "I go."
    assert "'place' must be Place: town: input should be a valid string, got 1" in model.calls[2].prompt
    assert model.calls[2].prompt.endswith("it takes: place (required), days")


def test_a_model_is_told_what_a_function_takes() -> None:
    assert visit.parameters["properties"] == {
        "place": {"$ref": "#/$defs/Place"},
        "days": {"type": "integer", "description": "How long."},
    }
    assert set(visit.parameters["$defs"]) == {"Place"}
    assert visit.parameters["required"] == ["place"]


def ask(use: Callable[[Context], Any], *, tools: Any = (visit, rest), reply: Any = "Done.") -> Any:
    """What an async program gives that does something with a conversation."""

    @program
    async def asking() -> Any:
        chat = Context(tools=tools).user("Well?")
        made = use(chat)
        return await made if asyncio.iscoroutine(made) else made

    with fake_model(lambda call: reply):
        return asking()


async def _after_a_call(chat: Context, then: Callable[[Context], Any]) -> Any:
    await chat.turn()
    return then(chat)


@pytest.mark.parametrize(
    ("use", "problem"),
    [
        (lambda c: c.turn(regex="a"), r"turn\(\) takes no 'regex'"),
        (lambda c: c.turn(type=int), r"turn\(\) takes no 'type'"),
        (lambda c: c.turn(tool_choice="walk"), "tool_choice is 'walk'; the tools are: 'visit', 'rest'"),
        (lambda c: c.assistant("Hm.").turn(), "complete turn of the assistant; call user"),
        (lambda c: c.text("Hm.").turn(), r"turn\(\) cannot go on from what text\(\) has begun"),
        (lambda c: Context().turn(), "nothing to go on from"),
        (
            lambda c: c.tool(ToolCall("rest", {}, "c"), "x"),
            "no call 'c' of 'rest' waits for a result.*: none",
        ),
    ],
)
def test_misuse(use: Callable[[Context], Any], problem: str) -> None:
    with pytest.raises(TraceError, match=f"test_turns.py.*{problem}"):
        ask(use)


@pytest.mark.parametrize(
    ("then", "problem"),
    [
        (lambda c: c.user("More?"), r"user\(\) cannot follow calls without results, of rest; call run"),
        (lambda c: c.gen(), r"gen\(\) cannot follow calls without results, of rest"),
        (lambda c: c.text("Hm"), "cannot follow"),
        (lambda c: c.tool(ToolCall("rest", {}, "c"), "x"), "no call 'c' .*; those that do: call00000"),
    ],
)
def test_every_call_needs_a_result(then: Callable[[Context], Any], problem: str) -> None:
    with pytest.raises(TraceError, match=problem):
        ask(lambda chat: _after_a_call(chat, then), reply=ToolCall("rest", {}))


def test_required_needs_tools() -> None:
    with pytest.raises(TraceError, match="tool_choice is 'required'; the tools are: none"):
        ask(lambda chat: chat.turn(tool_choice="required"), tools=())


def test_calls_of_specifications_are_not_for_weft_to_carry_out() -> None:
    async def run(chat: Context) -> Any:
        return chat.run((await chat.turn()).calls)

    with pytest.raises(TraceError, match=r"'buy' is no tool of this program .* tool\(call, result\)"):
        ask(run, tools=[{"name": "buy"}], reply=ToolCall("buy", {}))


def test_without_tools_all_is_text() -> None:
    async def text(chat: Context) -> str:
        turn = await chat.turn()
        assert not turn.calls
        return turn.text

    assert '"rest"' in ask(text, tools=(), reply=ToolCall("rest", {}))


def test_a_turn_is_for_async_programs_and_not_for_bodies() -> None:
    @program
    def plain() -> Any:
        return Context(tools=[rest]).user("Well?").turn()

    with pytest.raises(TraceError, match=r"turn\(\) needs an async program.*`async def`"):
        plain.graph()
    with pytest.raises(TraceError, match=r"turn\(\) needs an async program.*outside of map"):
        ask(lambda chat: map(lambda wish: Context().user(wish).turn(), ["a"]))


def test_other_texts_of_the_conversation_know_the_tools_too() -> None:
    async def say(chat: Context) -> Any:
        return await chat.fork(1)[0].gen()

    with fake_model(lambda call: f"{call.tools} {call.messages}"):

        @program
        async def asking() -> str:
            return str(await say(Context(tools=[rest]).user("Well?")))

        assert asking() == "('rest',) [{'role': 'user', 'content': 'Well?'}]"


def test_messages_of_others_may_leave_things_out() -> None:
    @program
    async def reply(history: list[Message]) -> list[Message]:
        chat = Context(messages=history, tools=[rest])
        await chat.turn()
        return chat.messages

    function = {"name": "rest", "arguments": "{}"}
    history: Any = [
        {"role": "user", "content": "Well?", "tool_calls": None},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "x", "type": "function", "function": function}],
        },
        {"role": "tool", "content": "8", "tool_call_id": "x"},
    ]
    with fake_model(lambda call: ToolCall("rest", {})):
        *_, last = reply(history)
    assert [call["id"] for call in last["tool_calls"]] == ["call00001"]


def test_forks_take_their_turns_side_by_side() -> None:
    async def apart(chat: Context) -> list[str]:
        return [turn.text for turn in await asyncio.gather(*(copy.turn() for copy in chat.fork()))]

    assert ask(apart) == ["Done.", "Done."]


def test_a_server_tool_says_what_it_takes() -> None:
    given = {"type": "object", "properties": {"key": {"type": "string"}}}

    def names(call: ModelCall) -> str:
        return ", ".join(call.tools)

    async def say(chat: Context) -> str:
        return (await chat.turn()).text

    with fake_model(names):

        @program
        async def asking() -> str:
            return await say(Context(tools=[server_tool("lookup", parameters=given)]).user("Well?"))

        assert asking() == "lookup"
