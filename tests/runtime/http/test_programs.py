"""Programs of the server as models."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from weft.proto import value_pb2

from .conftest import Door


def said(*texts: str) -> list[Any]:
    return [{"role": "user", "content": text} for text in texts]


async def test_the_last_message_is_what_a_program_is_asked(door: Door) -> None:
    answer = await door.openai.chat.completions.create(model="ask", messages=said("first", "why?"))
    assert answer.choices[0].message.content == "<Better: <Q: why? in short>>"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "ask"
    assert answer.usage
    assert answer.usage.completion_tokens == 6  # of both generations


async def test_only_the_result_is_streamed(door: Door) -> None:
    stream = await door.openai.chat.completions.create(model="ask", messages=said("why?"), stream=True)
    pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(pieces) == "<Better: <Q: why? in short>>"
    assert len(pieces) > 3


async def test_further_inputs_by_name(door: Door) -> None:
    create = door.openai.chat.completions.create
    answer = await create(model="ask", messages=said("why?"), extra_body={"inputs": {"style": "prose"}})
    assert answer.choices[0].message.content == "<Better: <Q: why? in prose>>"
    inputs = {"question": "who?", "style": "prose"}
    answer = await create(model="ask", messages=said("not used"), extra_body={"inputs": inputs})
    assert answer.choices[0].message.content == "<Better: <Q: who? in prose>>"
    answer = await create(model="compare", messages=said("b"), extra_body={"inputs": {"one": "a"}})
    assert answer.choices[0].message.content == "<ab>"
    answer = await create(model="old", messages=said("b"))
    assert answer.choices[0].message.content == "<b>"


async def test_an_input_that_takes_the_conversation(door: Door) -> None:
    answer = await door.openai.chat.completions.create(model="count", messages=said("a", "b"))
    assert answer.choices[0].message.content == '{"role": "user", "content": "b"}'


async def test_a_conversation_with_calls_arrives_with_them(door: Door) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "Wörth"}'}}
    asks = {"role": "assistant", "content": None, "tool_calls": [call]}
    told = {"role": "tool", "tool_call_id": "c1", "content": "a town"}
    brief = {"role": "developer", "content": "Be brief."}
    create = door.openai.chat.completions.create
    for last, kept in ((asks, {**asks, "content": ""}), (told, told), (brief, {**brief, "role": "system"})):
        messages: Any = [asks, last]
        answer = await create(model="count", messages=messages)
        assert json.loads(answer.choices[0].message.content or "") == kept


async def test_a_result_without_deltas_comes_as_one_piece(door: Door) -> None:
    stream = await door.openai.chat.completions.create(model="count", messages=said("a"), stream=True)
    pieces = [chunk.choices[0].delta.content async for chunk in stream]
    assert pieces == ['{"role": "user", "content": "a"}', None]


async def test_a_completion_by_a_program(door: Door) -> None:
    answer = await door.openai.completions.create(model="ask", prompt="why?")
    assert answer.choices[0].text == "<Better: <Q: why? in short>>"
    with pytest.raises(openai.BadRequestError, match="a program takes one prompt"):
        await door.openai.completions.create(model="ask", prompt=["a", "b"])


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"model": "compare"}, "inputs", "takes several texts (one, other)"),
        ({"temperature": 0}, "temperature", "'temperature' cannot be set for program 'ask'"),
        ({"max_tokens": 5}, "max_tokens", "cannot be set"),
        ({"n": 2}, "n", "cannot be set"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "cannot be set"),
        ({"inputs": {"gone": 1}}, None, "there is no input 'gone'; known: 'question', 'style'"),
        ({"inputs": {"style": 1}}, None, "input 'style' must be a text"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "messages", "no message of the user"),
    ],
)
async def test_what_a_program_does_not_take(
    door: Door, body: dict[str, Any], param: str | None, message: str
) -> None:
    body = {"model": "ask", "messages": said("why?"), **body}
    status, error = await door.refused("/v1/chat/completions", body)
    assert (status, error["param"]) == (400, param)
    assert message in error["message"]
    assert not door.server.orchestrator.records


async def test_defaults_may_be_said(door: Door) -> None:
    answer = await door.openai.chat.completions.create(
        model="ask", messages=said("why?"), n=1, temperature=1, stream=False
    )
    assert answer.choices[0].message.content == "<Better: <Q: why? in short>>"


async def test_a_program_whose_file_is_gone(door: Door) -> None:
    status, error = await door.refused("/v1/chat/completions", {"model": "lost", "messages": said("a")})
    assert status == 404
    assert "the graph of program 'lost' cannot be read" in error["message"]


async def test_a_program_without_a_single_result(door: Door) -> None:
    file = door.server.orchestrator.settings.programs["old"]
    file.write_text(json.dumps({**json.loads(file.read_text()), "outputs": []}))
    status, error = await door.refused("/v1/chat/completions", {"model": "old", "messages": said("a")})
    assert (status, error["message"]) == (500, "program 'old' has 0 outputs; as a model it must have one")


async def test_a_failing_program_says_where(door: Door) -> None:
    door.workers[0].faults = [
        value_pb2.Fault(code="invalid", message="no such thing"),
        value_pb2.Fault(code="tool_failed", message="it broke"),
    ]
    status, error = await door.refused("/v1/chat/completions", {"model": "ask", "messages": said("a")})
    assert (status, error["code"], error["message"]) == (400, "invalid", "no such thing")
    assert (error["program"], error["node"].split()[1]) == ("ask", "prefill")
    status, error = await door.refused("/v1/chat/completions", {"model": "ask", "messages": said("a")})
    assert (status, error["code"], error["type"]) == (500, "tool_failed", "server_error")
