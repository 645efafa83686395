"""Tools that a real model calls: described in words, or by a template that knows tools."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from weft import (
    Client,
    Context,
    Message,
    RunFinished,
    ToolCall,
    ToolEnded,
    fake_model,
    program,
    tool,
)
from weft.apps import reference_model
from weft.apps.mcp_agent.program import call
from weft.apps.mcp_agent.toolbox import SAMPLE, Toolbox

from .conftest import Server, serving

BUNDLED = Path(reference_model.__file__).with_name("model")
TEMPLATE = """\
{{- bos_token }}{% if tools %}<|system|>Tools:{% for tool in tools %} {{ tool | tojson }}{% endfor %}<|end|>
{%- endif %}
{%- for m in messages %}
{%- if m.role == 'tool' %}<|user|><tool_response>{{ m.content }}</tool_response><|end|>
{%- else %}<|{{ m.role }}|>{{ m.content }}
{%- for call in m.tool_calls %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|end|>
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}"""


@tool
def look_up(topic: str, kind: Literal["town", "company"] = "town") -> str:
    """What an encyclopedia says."""
    return f"{topic} is a {kind}"


@tool
def count(numbers: list[int]) -> int:
    """Counts numbers."""
    return len(numbers)


@program
async def act(question: str) -> list[Message]:
    chat = Context(tools=[look_up, count]).user(question)
    chat.run((await chat.turn(tool_choice="required", max_tokens=48)).calls)
    chat.run((await chat.turn(tool_choice=count, max_tokens=24)).calls)
    await chat.turn(max_tokens=12, name="last")
    chat.user("Again!").run((await chat.turn(tool_choice="look_up", temperature=1, max_tokens=48)).calls)
    return chat.messages


@program
async def ask_mcp(question: str) -> str:
    async with Toolbox(SAMPLE) as toolbox:
        offers = [
            {"name": offer.name, "description": offer.purpose, "parameters": offer.schema}
            for offer in toolbox.offers
        ]
        chat = Context(tools=offers).user(question)
        while (turn := await chat.turn()).calls:
            for made in turn.calls:
                chat.tool(made, made.problem or call(toolbox.id, made.name, made.arguments))
        return turn.text


@pytest.fixture(params=["words", "template"])
def client(
    request: pytest.FixtureRequest, server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Client]:
    if request.param == "words":
        yield server.client
        return
    folder = tmp_path_factory.mktemp("model")
    shutil.copytree(BUNDLED, folder / "m")
    (folder / "m" / "chat_template.jinja").write_text(TEMPLATE)
    with serving(folder, "--model", str(folder / "m")) as started:
        yield started.client


def test_forced_calls_fit_and_conversations_go_on(client: Client) -> None:
    events = list(act.using(client).events("Where is Sahus' main office?"))
    last = events[-1]
    assert isinstance(last, RunFinished)
    messages = last.result or []
    assert [message["role"] for message in messages] == [
        *("user", "assistant", "tool", "assistant", "tool", "assistant", "user", "assistant", "tool")
    ]
    calls = [call["function"] for message in messages for call in message.get("tool_calls", ())]
    assert [call["name"] for call in calls[1:]] == ["count", "look_up"]
    results = [message["content"] for message in messages if message["role"] == "tool"]
    assert not any(result.startswith("error") for result in results)
    ended = [event for event in events if isinstance(event, ToolEnded)]
    assert [(event.tool, not event.error) for event in ended] == [(call["name"], True) for call in calls]
    assert results[1] == str(len(json.loads(calls[1]["arguments"])["numbers"]))
    assert messages[5]["content"]


def test_tools_of_an_mcp_server_are_called_by_their_schemas(server: Server) -> None:
    replies = iter(
        [
            [ToolCall("calculator", {"expression": "6 * 7"}), ToolCall("calculator", {"expression": 42})],
            "Forty-two.",
        ]
    )
    with fake_model(lambda call: next(replies)) as model:
        assert ask_mcp.using(server.client)("What is six times seven?") == "Forty-two."
    first, last = model.calls
    assert first.tools == ("search", "calculator")
    told = [message["content"] for message in last.messages if message["role"] == "tool"]
    assert told[0] == "42"
    assert "calculator.expression must be string, not integer 42; it takes: expression (required)" in told[1]
