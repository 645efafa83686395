"""Chats over the official client, against models that write what they are told to."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from weft.graph.ops.primitive import Decode
from weft.graph.sampling import JsonSchema
from weft.proto import worker_pb2
from weft.runtime.http.targets import LanguageModel

from .conftest import Door, StartDoor, language_model

HI: list[Any] = [{"role": "user", "content": "hi"}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
    },
}


def decodes(door: Door) -> list[Decode]:
    """The decodes that the workers were asked for."""
    nodes = [node for worker in door.workers for node in worker.nodes()]
    return [node.op for node in nodes if isinstance(node.op, Decode)]


async def test_a_conversation(door: Door) -> None:
    messages: list[Any] = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "1+"}, {"type": "text", "text": "1?"}]},
        {"role": "assistant", "content": "2", "refusal": None, "tool_calls": None},
        {"role": "user", "content": "sure?", "name": "Ann"},
    ]
    answer = await door.openai.chat.completions.create(model="m", messages=messages)
    (choice,) = answer.choices
    assert choice.message.content == "<[system]Be brief.[user]1+1?[assistant]2[user]sure?>"
    assert (choice.index, choice.finish_reason, choice.message.role) == (0, "stop", "assistant")
    assert (answer.object, answer.model) == ("chat.completion", "m")
    run = answer.id.removeprefix("chatcmpl-")
    assert answer._request_id == run
    assert door.server.orchestrator.records[run].program == "chat"


async def test_a_stream(door: Door) -> None:
    stream = await door.openai.chat.completions.create(
        model="m", messages=HI, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    *texts, last, usage = chunks
    assert "".join(chunk.choices[0].delta.content or "" for chunk in texts) == "<[user]hi>"
    assert [chunk.choices[0].delta.role for chunk in texts].count("assistant") == 1
    assert (last.choices[0].finish_reason, last.choices[0].delta.content) == ("stop", None)
    assert all(chunk.choices[0].finish_reason is None for chunk in texts)
    assert (usage.choices, usage.usage and usage.usage.completion_tokens) == ([], 3)
    assert len({chunk.id for chunk in chunks}) == 1


async def test_a_stream_ends_as_servers_sent_events_do(door: Door) -> None:
    answer = await door.raw.post("/v1/chat/completions", json={"model": "m", "messages": HI, "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = answer.text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    assert all(line.startswith("data: {") for line in lines[:-2])
    assert "usage" not in lines[0]


async def test_several_samples_of_one_prompt(door: Door) -> None:
    answer = await door.openai.chat.completions.create(model="m", messages=HI, n=3, seed=2**63 - 1)
    assert [(c.index, c.message.content) for c in answer.choices] == [(n, "<[user]hi>") for n in range(3)]
    assert len({op.sampling.seed for op in decodes(door)}) == 3
    stream = await door.openai.chat.completions.create(
        model="m", messages=HI, n=2, temperature=0, stream=True
    )
    texts = {0: "", 1: ""}
    async for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == {0: "<[user]hi>", 1: "<[user]hi>"}  # equal greedy samples are computed once


async def test_sampling_parameters_reach_the_decode(door: Door) -> None:
    await door.openai.chat.completions.create(
        model="m",
        messages=HI,
        temperature=0.5,
        top_p=0.9,
        seed=7,
        stop=["a", "b"],
        max_completion_tokens=9,
        extra_body={"top_k": 4},
    )
    await door.openai.chat.completions.create(model="m", messages=HI, stop="x")
    await door.openai.chat.completions.create(model="m", messages=HI)
    given, default, other = (op.sampling for op in decodes(door))
    assert (given.temperature, given.top_p, given.top_k, given.seed) == (0.5, 0.9, 4, 7)
    assert (given.stop, given.max_tokens) == (("a", "b"), 9)
    assert (default.temperature, default.stop, default.max_tokens) == (1.0, ("x",), 1000)
    assert default.seed != other.seed


@pytest.mark.parametrize(("slots", "limit"), [(1, 1), (999, 499), (1000, 1000), (5000, 1000)])
def test_an_answer_without_a_limit_has_as_much_room_as_there_is(slots: int, limit: int) -> None:
    info = worker_pb2.LlmInfo(context_length=1000, kv_slots=slots)
    assert LanguageModel("m", info).room == limit


async def test_cache_salt_separates_what_is_read(door: Door) -> None:
    await door.openai.chat.completions.create(model="m", messages=HI, extra_body={"cache_salt": "ann"})
    assert [fragment.namespace for fragment in door.workers[0].fragments()] == ["ann"]


async def test_what_changes_nothing_is_taken_and_dropped(door: Door) -> None:
    answer = await door.openai.chat.completions.create(
        model="m",
        messages=HI,
        user="ann",
        store=False,
        metadata={"a": "b"},
        service_tier="auto",
        presence_penalty=0,
        frequency_penalty=0.0,
        logit_bias={},
        parallel_tool_calls=True,
        prompt_cache_key="k",
        stop=None,
        seed=None,
    )
    assert answer.choices[0].message.content == "<[user]hi>"


# ---- forms


@pytest.mark.parametrize(
    ("form", "schema"),
    [
        ({"type": "json_object"}, {"type": "object"}),
        (
            {
                "type": "json_schema",
                "json_schema": {"name": "n", "schema": {"type": "array"}, "strict": True},
            },
            {"type": "array"},
        ),
    ],
)
async def test_the_form_of_an_answer_is_forced(door: Door, form: Any, schema: dict[str, Any]) -> None:
    await door.openai.chat.completions.create(model="m", messages=HI, response_format=form)
    (op,) = decodes(door)
    assert isinstance(op.constraint, JsonSchema)
    assert json.loads(op.constraint.schema) == schema


async def test_plain_text_is_not_forced(door: Door) -> None:
    await door.openai.chat.completions.create(model="m", messages=HI, response_format={"type": "text"})
    assert decodes(door)[0].constraint is None


# ---- tools


async def test_the_model_may_call_a_tool(door: Door) -> None:
    door.workers[0].reply = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
    answer = await door.openai.chat.completions.create(model="m", messages=HI, tools=[TOOL])
    (choice,) = answer.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    assert choice.message.tool_calls
    (call,) = choice.message.tool_calls
    assert call.type == "function"
    assert (call.function.name, call.function.arguments) == ("add", '{"a": 1}')
    assert decodes(door)[0].constraint is None
    door.workers[0].reply = ""
    messages: list[Any] = [
        *HI,
        choice.message,
        {"role": "tool", "tool_call_id": call.id, "content": "2"},
    ]
    after = await door.openai.chat.completions.create(
        model="m", messages=messages, tools=[TOOL], tool_choice="none"
    )
    text = str(after.choices[0].message.content)
    assert '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>[user]<tool_response>\n2' in text
    assert after.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "add"}}])
async def test_a_call_can_be_forced(door: Door, choice: Any) -> None:
    door.workers[0].reply = '{"name": "add", "arguments": {"a": 1}}'
    answer = await door.openai.chat.completions.create(
        model="m", messages=HI, tools=[TOOL], tool_choice=choice
    )
    assert answer.choices[0].message.tool_calls
    assert answer.choices[0].finish_reason == "tool_calls"
    (op,) = decodes(door)
    assert isinstance(op.constraint, JsonSchema)
    assert json.loads(op.constraint.schema)["properties"]["name"] == {"const": "add"}


@pytest.mark.parametrize("choice", ["auto", "required"])
async def test_calls_in_a_stream(door: Door, choice: Any) -> None:
    call = '{"name": "add", "arguments": {"a": 1, "b": "}"}}'
    door.workers[0].reply = call if choice == "required" else f"Sure. <tool_call>{call}</tool_call>"
    stream = await door.openai.chat.completions.create(
        model="m", messages=HI, tools=[TOOL], tool_choice=choice, stream=True
    )
    content, name, arguments, reasons = "", "", "", []
    async for chunk in stream:
        (part,) = chunk.choices
        content += part.delta.content or ""
        reasons += [part.finish_reason] if part.finish_reason else []
        for piece in part.delta.tool_calls or ():
            assert piece.function
            assert piece.index == 0
            name += piece.function.name or ""
            arguments += piece.function.arguments or ""
    assert (name, json.loads(arguments), reasons) == ("add", {"a": 1, "b": "}"}, ["tool_calls"])
    assert content == ("" if choice == "required" else "Sure.")


async def test_with_the_choice_none_a_call_is_content(door: Door) -> None:
    door.workers[0].reply = '<tool_call>{"name": "add", "arguments": {}}</tool_call>'
    answer = await door.openai.chat.completions.create(
        model="m", messages=HI, tools=[TOOL], tool_choice="none"
    )
    assert answer.choices[0].message.content == door.workers[0].reply
    assert answer.choices[0].finish_reason == "stop"


# ---- what is refused


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"temprature": 1}, "temprature", "unknown parameter 'temprature': leave it out; known: model, "),
    ({"presence_penalty": 0.5}, "presence_penalty", "is not supported: weft draws from the model's own"),
    ({"functions": []}, "functions", "deprecated; pass `tools`"),
    ({"modalities": ["text", "audio"]}, "modalities", "read and write text"),
    ({"reasoning_effort": "low"}, "reasoning_effort", "chat_template_kwargs"),
    ({"temperature": "hot"}, "temperature", 'should be a valid number, not "hot"'),
    ({"temperature": -1}, "temperature", "greater than or equal to 0, not -1"),
    ({"top_p": 0}, "top_p", "greater than 0"),
    ({"n": 0}, "n", "greater than or equal to 1"),
    ({"n": 1.5}, "n", "valid integer, not 1.5"),
    ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
    ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens", "contradict each other"),
    (
        {"ignore_eos": True, "response_format": {"type": "json_object"}},
        "ignore_eos",
        "does not go with a constrained answer",
    ),
    ({"stop": ""}, "stop[0]", "at least 1 character"),
    ({"stop": [1]}, "stop[0]", "valid string"),
    ({"seed": 2**64}, "seed", "less than"),
    ({"stream": "yes"}, "stream", "valid boolean"),
    ({"top_logprobs": 3}, "top_logprobs", "needs 'logprobs': true"),
    ({"top_logprobs": 21, "logprobs": True}, "top_logprobs", "less than or equal to 20"),
    ({"stream_options": {"usage": True}}, "stream_options.usage", "unknown parameter"),
    ({"messages": []}, "messages", "'messages' must hold at least 1 item"),
    ({"messages": None}, "messages", "'messages' is missing"),
    ({"messages": [{"role": "robot", "content": ""}]}, "messages[0].role", "'system', 'developer'"),
    ({"messages": [{"content": ""}]}, "messages[0].role", "is missing"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "must be a text"),
    ({"messages": [*HI, {"role": "user"}]}, "messages[1].content", "'messages[1].content' is missing"),
    ({"messages": [{"role": "system", "content": None}]}, "messages[0].content", "is missing"),
    ({"messages": [{"role": "tool", "tool_call_id": "a"}]}, "messages[0].content", "is missing"),
    ({"messages": [*HI, {"role": "assistant"}]}, "messages[1].content", "is missing"),
    ({"messages": [*HI, {"role": "assistant", "tool_calls": []}]}, "messages[1].content", "is missing"),
    ({"messages": [{"role": "user", "content": "", "mood": 1}]}, "messages[0].mood", "unknown parameter"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages[0].content",
        "parts of type 'image_url' are not supported",
    ),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]},
        "messages[0].tool_calls[0].function.arguments",
        "must be the JSON text of an object",
    ),
    ({"tools": [{"type": "web"}]}, "tools[0].type", "should be 'function'"),
    (
        {"tools": [{"type": "function", "function": {"name": "a b"}}]},
        "tools[0].function.name",
        "should match pattern",
    ),
    ({"tool_choice": "auto"}, "tool_choice", "there are no 'tools'"),
    ({"response_format": {"type": "xml"}}, "response_format.type", "'json_schema'"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "is missing"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": 5}}}},
        "response_format.json_schema.schema",
        "type",
    ),
    ({"tools": [TOOL], "response_format": {"type": "json_object"}}, "response_format", "leave it out"),
    ({"inputs": {"a": 1}}, "inputs", "'inputs' belong to programs"),
]


async def test_parameters_that_are_refused_by_name(door: Door, subtests: pytest.Subtests) -> None:
    for body, param, said in REFUSED:
        with subtests.test(said):
            status, error = await door.refused("/v1/chat/completions", {"model": "m", "messages": HI, **body})
            assert (status, error["param"], error["type"]) == (400, param, "invalid_request_error")
            assert said in error["message"]
    assert not door.server.orchestrator.records


async def test_errors_arrive_as_the_clients_own(door: Door) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        await door.openai.chat.completions.create(model="m", messages=HI, temperature=-1)
    assert (bad.value.param, bad.value.code) == ("temperature", "invalid_value")
    with pytest.raises(openai.NotFoundError, match="no model 'gpt'; there are: 'm', 'ask'") as missing:
        await door.openai.chat.completions.create(model="gpt", messages=HI)
    assert (missing.value.param, missing.value.code) == ("model", "model_not_found")


async def test_a_model_without_a_template(start_door: StartDoor) -> None:
    door = await start_door()
    await door.worker("w", language_model("m", ""))
    status, error = await door.refused("/v1/chat/completions", {"model": "m", "messages": HI})
    assert (status, error["param"]) == (400, "model")
    assert "send a text to /v1/completions" in error["message"]


async def test_a_model_that_is_still_loading(start_door: StartDoor) -> None:
    door = await start_door()
    status, error = await door.refused("/v1/chat/completions", {"model": "m", "messages": HI})
    assert (status, error["type"]) == (503, "server_error")
    assert "not ready" in error["message"]
