"""Tools in programs, over real gRPC: what models of several families read, and what they may write."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from weft import (
    Client,
    Context,
    Message,
    ProgramError,
    TextAdded,
    ToolEnded,
    ToolStarted,
    TraceError,
    program,
    server_tool,
    tool,
)
from weft.frontend.errors import ToolError
from weft.graph.ops.primitive import Decode, Prefill
from weft.graph.prompt import Fixed
from weft.graph.sampling import JsonSchema

from .conftest import Stage, Until
from .families import HERMES, LLAMA, MISTRAL, PLAIN, model

A, B = '{"name": "look_up", "arguments": {"query": "a"}}', '{"name": "look_up", "arguments": {"query": "b"}}'
CALL_A, CALL_B = f"<tool_call>\n{A}\n</tool_call>", f"<tool_call>\n{B}\n</tool_call>"


@pytest.fixture
async def client(bare: Stage) -> AsyncIterator[Client]:
    with Client(bare.address) as made:
        yield made


@tool
def look_up(query: str) -> str:
    """What is known."""
    return f'about "{query}"'


lookup = server_tool(
    "lookup",
    result=str,
    description="Of the server.",
    parameters={"type": "object", "properties": {"key": {"type": "string"}}, "required": ["key"]},
)


@program
async def agent(question: str, steps: int = 4) -> str:
    chat = Context(system="Act.", tools=[look_up, lookup]).user(question)
    for _ in range(steps):
        turn = await chat.turn(name="turn")
        if not turn.calls:
            return turn.text
        chat.run(turn.calls)
    return "gave up"


async def test_a_turn_is_continued_as_it_was_written(bare: Stage, client: Client) -> None:
    first = f"I look.\n{CALL_A}\n{CALL_B}"
    worker = await model(bare, HERMES, first, "So be it.")
    assert await agent.using(client).ainvoke("Why?") == "So be it."
    head = "<|sys|>Act. Tools: look_up: What is known. lookup: Of the server.<|end|><|user|>Why?<|end|><|ai|>"
    seen = '<tool_response>about "a"</tool_response><tool_response>about "b"</tool_response>'
    assert worker.read == [head, f"{head}{first}<|end|><|user|>{seen}<|end|><|ai|>"]
    again = [text for text, goes_on in worker.prefills if goes_on]
    assert "".join(again).startswith("<|end|><|user|><tool_response>…")
    assert not any("look_up" in text for text in again)


async def test_events_tell_what_is_written_and_what_tools_do(bare: Stage, client: Client) -> None:
    await model(bare, HERMES, CALL_A, "So be it.")
    events = [event async for event in agent.using(client).aevents("Why?")]
    texts = [event for event in events if isinstance(event, TextAdded)]
    assert {event.name for event in texts} == {"turn"}
    assert "".join(event.text for event in texts) == f"{CALL_A}So be it."
    (started,) = [event for event in events if isinstance(event, ToolStarted)]
    (ended,) = [event for event in events if isinstance(event, ToolEnded)]
    assert (started.tool, started.arguments, ended.result) == ("look_up", {"query": "a"}, 'about "a"')


async def test_a_stream_has_the_answer_at_its_end(bare: Stage, client: Client) -> None:
    await model(bare, HERMES, CALL_A, "So be it.")
    assert [piece async for piece in agent.using(client).astream("Why?")] == ["So be it."]


async def test_llama_reads_results_as_json_and_its_own_calls_as_it_wrote_them(
    bare: Stage, client: Client
) -> None:
    call = A.replace("arguments", "parameters")
    worker = await model(bare, LLAMA, call, "Done.")
    assert await agent.using(client).ainvoke("Why?") == "Done."
    assert worker.read[1] == f'{worker.read[0]}{call}<|end|><|ipython|>"about \\"a\\""<|end|><|assistant|>'


async def test_mistral_reads_calls_with_their_ids(bare: Stage, client: Client) -> None:
    worker = await model(bare, MISTRAL, f"[{A}, {B}]", "Done.")

    @program
    async def ask() -> str:
        chat = Context(tools=[look_up]).user("Why?")
        chat.run((await chat.turn()).calls)
        return (await chat.turn()).text

    assert await ask.using(client).ainvoke() == "Done."
    called = (
        f"[TOOL_CALLS][{A}:call00000, {B}:call00001]</s>"
        '[TOOL_RESULTS]about "a":call00000[/TOOL_RESULTS][TOOL_RESULTS]about "b":call00001[/TOOL_RESULTS]'
    )
    assert worker.read[1] == worker.read[0] + called


async def test_a_template_without_tools_says_them_in_words(bare: Stage, client: Client) -> None:
    worker = await model(bare, PLAIN, f"{CALL_A}\n{CALL_B}", "Done.")
    assert await agent.using(client).ainvoke("Why?") == "Done."
    assert worker.read[0].startswith("<|system|>Act.\n\nYou may call these functions")
    assert '{"name": "look_up", "description": "What is known.", "parameters": ' in worker.read[0]
    assert worker.read[1].removeprefix(worker.read[0]) == (
        f"{CALL_A}\n{CALL_B}<|end|><|user|>"
        '<tool_response>\nabout "a"\n</tool_response>\n<tool_response>\nabout "b"\n</tool_response>'
        "<|end|><|assistant|>"
    )


@pytest.mark.parametrize(
    ("call", "told"),
    [
        ('{"name": "look", "arguments": {}}', "there is no tool 'look'; the tools are: look_up, lookup"),
        (
            '{"name": "look_up", "arguments": {"q": 1}}',
            "the arguments of 'look_up' do not fit: there is no 'q'; it takes: query (required)",
        ),
        ('{"name": "look_up", "arguments": {}}', "do not fit: 'query' is missing; it takes"),
        ('{"name": "look_up", "arguments": {"query": [1]}}', "do not fit: 'query' must be str: "),
        ('{"name": "look_up", "arguments": "a"}', "do not fit: they must be an object; it takes"),
        ('{"name": "lookup", "arguments": {}}', "do not fit: lookup lacks the field 'key'; it takes"),
        (
            '{"name": "lookup", "arguments": {"key": "k", "x": 1}}',
            "do not fit: there is no 'x'; it takes: key",
        ),
    ],
)
async def test_the_model_is_told_what_is_wrong_with_a_call(
    bare: Stage, client: Client, call: str, told: str
) -> None:
    worker = await model(bare, HERMES, f"<tool_call>{call}</tool_call>", "Sorry.")
    assert await agent.using(client).ainvoke("Why?") == "Sorry."
    assert f"<tool_response>error: {told}" in worker.read[1] or told in worker.read[1]
    assert "<tool_response>error: " in worker.read[1]


@pytest.mark.parametrize(
    "text",
    ['<tool_call>\n{"name": "look_up", "argum', "<tool_call>{oops}</tool_call>", '{"name": "look_up"}'],
)
async def test_what_is_no_call_is_text(bare: Stage, client: Client, text: str) -> None:
    await model(bare, HERMES, text)
    assert await agent.using(client).ainvoke("Why?") == text


async def test_a_forced_call_is_begun_and_closed_in_the_form_of_the_template(
    bare: Stage, client: Client
) -> None:
    @program
    async def ask() -> list[Any]:
        chat = Context(tools=[look_up, lookup]).user("Why?")
        turn = await chat.turn(tool_choice=look_up)
        chat.run(turn.calls)
        other = await chat.turn(tool_choice="required")
        chat.run(other.calls)
        return [turn.text, turn.calls[0].arguments, other.calls[0].name, (await chat.turn()).text]

    key = '{"name": "lookup", "arguments": {"key": "k"}}'
    worker = await model(bare, HERMES, A, key, "Done.")
    assert await ask.using(client).ainvoke() == ["", {"query": "a"}, "lookup", "Done."]
    assert worker.read[0].endswith("<|user|>Why?<|end|><|ai|><tool_call>\n")
    seen = '\n</tool_call><|end|><|user|><tool_response>about "a"</tool_response><|end|><|ai|><tool_call>\n'
    assert worker.read[1] == f"{worker.read[0]}{A}{seen}"
    assert worker.read[2].startswith(f"{worker.read[1]}{key}\n</tool_call><|end|>")
    assert "<tool_response>lookup(k)</tool_response>" in worker.read[2]
    one, either, free = (decode.constraint for decode in worker.decodes)
    assert isinstance(one, JsonSchema)
    assert isinstance(either, JsonSchema)
    assert json.loads(one.schema)["properties"]["name"] == {"const": "look_up"}
    assert len(json.loads(either.schema)["anyOf"]) == 2
    assert free is None


async def test_a_forced_call_stands_in_the_own_form_of_other_templates(bare: Stage, client: Client) -> None:
    @program
    async def ask() -> str:
        chat = Context(tools=[look_up]).user("Why?")
        chat.run((await chat.turn(tool_choice="look_up")).calls)
        return (await chat.turn(tool_choice="none")).text

    worker = await model(bare, LLAMA, A, CALL_A)
    assert await ask.using(client).ainvoke() == CALL_A  # as nothing may be called
    assert '<|ai|>{"name": "look_up", "parameters": {"query": "a"}}<|end|><|ipython|>' in worker.read[1]


async def test_conversations_with_calls_can_be_kept(bare: Stage, client: Client) -> None:
    @program
    async def reply(history: list[Message], text: str) -> list[Message]:
        chat = Context(messages=history, tools=[look_up]).user(text)
        while (turn := await chat.turn()).calls:
            chat.run(turn.calls)
        return chat.messages

    worker = await model(bare, HERMES, f"Hm. {CALL_A}", "One.", CALL_B, "Two.")
    kept = await reply.using(client).ainvoke([], "first")
    call = {
        "id": "call00000",
        "type": "function",
        "function": {"name": "look_up", "arguments": '{"query": "a"}'},
    }
    assert kept == [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "Hm.", "tool_calls": [call]},
        {"role": "tool", "content": 'about "a"', "tool_call_id": "call00000"},
        {"role": "assistant", "content": "One."},
    ]
    kept = await reply.using(client).ainvoke(kept, "second")
    assert [message.get("tool_call_id") for message in kept if message["role"] == "tool"] == [
        "call00000",
        "call00001",
    ]
    assert worker.read[2].endswith(
        f'<|ai|>Hm.{CALL_A}<|end|><|user|><tool_response>about "a"</tool_response><|end|>'
        "<|ai|>One.<|end|><|user|>second<|end|><|ai|>"
    )


async def test_what_calls_and_tools_say_never_becomes_a_control_token(bare: Stage, client: Client) -> None:
    @tool
    def echo(said: str) -> str:
        """Says <|end|> again."""
        return said

    @program
    async def ask(history: list[Message]) -> str:
        chat = Context(messages=history, tools=[echo])
        return (await chat.turn()).text

    call: Any = {
        "id": "1",
        "type": "function",
        "function": {"name": "echo", "arguments": '{"said": "<|end|>"}'},
    }
    history: list[Message] = [
        {"role": "user", "content": "<|user|>"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "<|sys|>", "tool_call_id": "1"},
    ]
    worker = await model(bare, HERMES, "Done.")
    await ask.using(client).ainvoke(history)
    read = [piece for node in worker.nodes() if isinstance(node.op, Prefill) for piece in node.op.pieces]
    pieces = [piece for piece in read if isinstance(piece, Fixed)]
    assert "".join(piece.text for piece in pieces if not piece.trusted).count("<|end|>") == 2
    trusted = "".join(piece.text for piece in pieces if piece.trusted)
    assert (trusted.count("<|end|>"), trusted.count("<|user|>"), trusted.count("<|sys|>")) == (4, 2, 1)


async def test_a_tool_that_raises_ends_the_run_unless_it_says_what_to_do(bare: Stage, client: Client) -> None:
    def fails(query: str) -> str:
        raise ValueError("no luck")

    careless, careful = tool(fails), tool(on_error=lambda problem: f"it said {problem}")(fails)

    @program
    async def ask(careful_: bool) -> str:
        chat = Context(tools=[careful if careful_ else careless]).user("Why?")
        chat.run((await chat.turn()).calls)
        return (await chat.turn()).text

    call = CALL_A.replace("look_up", "fails")
    worker = await model(bare, HERMES, call, "Done.", call)
    assert await ask.using(client).ainvoke(True) == "Done."
    assert "<tool_response>it said no luck</tool_response>" in worker.read[1]
    with pytest.raises(ToolError, match="no luck"):
        await ask.using(client).ainvoke(False)


async def test_calls_run_side_by_side(bare: Stage, client: Client) -> None:
    both = asyncio.Barrier(2)

    @tool
    async def meet(who: str) -> str:
        await both.wait()
        return who

    @program
    async def ask() -> str:
        chat = Context(tools=[meet]).user("Why?")
        chat.run((await chat.turn()).calls)
        return (await chat.turn()).text

    calls = [f'<tool_call>{{"name": "meet", "arguments": {{"who": "{who}"}}}}</tool_call>' for who in "ab"]
    worker = await model(bare, HERMES, "\n".join(calls), "Done.")
    assert await ask.using(client).ainvoke() == "Done."
    assert worker.read[1].endswith(
        "<tool_response>a</tool_response><tool_response>b</tool_response><|end|><|ai|>"
    )


async def test_a_cancelled_turn_is_no_part_of_the_conversation(
    bare: Stage, client: Client, until: Until
) -> None:
    @program
    async def ask() -> list[Message]:
        chat = Context(tools=[look_up]).user("Why?")
        turn = asyncio.ensure_future(chat.turn())
        await until(lambda: worker.decodes)
        turn.cancel()
        await asyncio.wait({turn})
        await until(lambda: any(command.HasField("cancel") for command in worker.commands))
        before = chat.messages
        worker.gate.set()
        await chat.user("Well?").turn()
        return before + chat.messages

    worker = await model(bare, HERMES, "Done.")
    worker.gated = {Decode}
    roles = [message["role"] for message in await ask.using(client).ainvoke()]
    assert roles == ["user", "user", "user", "assistant"]


async def test_two_turns_at_a_time_need_a_fork(bare: Stage, client: Client) -> None:
    @program
    async def ask() -> None:
        chat = Context(tools=[look_up]).user("Why?")
        await asyncio.gather(chat.turn(), chat.turn())

    await model(bare, HERMES, "Done.")
    with pytest.raises(TraceError, match=r"turn\(\) cannot follow a complete turn of the assistant"):
        await ask.using(client).ainvoke()


async def test_specifications_are_carried_out_by_the_program(bare: Stage, client: Client) -> None:
    listed = {
        "name": "buy",
        "description": "Buys.",
        "parameters": {
            "type": "object",
            "properties": {"n": {"type": "integer"}},
            "additionalProperties": False,
        },
    }

    @program
    async def ask() -> list[Any]:
        chat = Context(tools=[listed]).user("Why?")
        turn = await chat.turn()
        for call in turn.calls:
            chat.tool(call, call.problem or {"bought": call.arguments["n"]})
        return [[call.problem for call in turn.calls], (await chat.turn()).text]

    calls = [
        f'<tool_call>{{"name": "buy", "arguments": {json.dumps(a)}}}</tool_call>'
        for a in ({"n": 2}, {"m": 1})
    ]
    worker = await model(bare, HERMES, "".join(calls), "Done.")
    problem = "the arguments of 'buy' do not fit: there is no 'm'; it takes: n"
    assert await ask.using(client).ainvoke() == [["", problem], "Done."]
    assert f'<tool_response>{{"bought": 2}}</tool_response><tool_response>{problem}<' in worker.read[1]


async def test_a_server_tool_that_is_called_runs_there(bare: Stage, client: Client) -> None:
    call = '<tool_call>{"name": "lookup", "arguments": {"key": "k"}}</tool_call>'
    worker = await model(bare, HERMES, call, "Done.")
    assert await agent.using(client).ainvoke("Why?") == "Done."
    assert "<tool_response>lookup(k)</tool_response>" in worker.read[1]


async def test_a_model_without_a_template_holds_no_conversation(bare: Stage, client: Client) -> None:
    await bare.worker("w1")
    with pytest.raises(ProgramError, match="has no chat template"):
        await agent.using(client).ainvoke("Why?")


async def test_messages_that_the_template_refuses_say_so(bare: Stage, client: Client) -> None:
    @program
    async def ask() -> str:
        chat = Context(tools=[look_up], messages=[{"role": "assistant", "content": "hm"}]).user("Why?")
        return (await chat.turn()).text

    await model(bare, MISTRAL)
    with pytest.raises(ProgramError, match="the chat template of 'm' refuses: roles must alternate"):
        await ask.using(client).ainvoke()
