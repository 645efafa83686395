"""The HTTP door of a real server, by the official client."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from weft import embed, gen, program
from weft.apps import instructions, rag

from .conftest import Server, eventually, serving

EXPAND: list[Any] = [
    {"role": "system", "content": instructions.EXPAND},
    {"role": "user", "content": "Question: Who leads Postos Partners?"},
]
QUESTION = "Where is Sahus' main office?"
ADD: Any = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"$ref": "#/$defs/N"}},
            "required": ["a", "b"],
            "additionalProperties": False,
            "$defs": {"N": {"type": "integer"}},
        },
    },
}


def as_json(schema: dict[str, Any]) -> Any:
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}


@program
def expand() -> str:
    """The same by weft's own client."""
    return gen(EXPAND[1]["content"], system=EXPAND[0]["content"], max_tokens=64)


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://{server.http}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_a_chat_is_what_the_language_writes(server: Server, client: openai.OpenAI) -> None:
    expected = expand.using(server.client)()
    create = client.chat.completions.create
    answer = create(model="reference", messages=EXPAND, temperature=0, max_tokens=64)
    assert answer.choices[0].message.content == expected
    assert answer.choices[0].finish_reason == "stop"
    stream = create(model="reference", messages=EXPAND, temperature=0, stream=True)
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(pieces) == expected
    assert len(pieces) > 5


def test_usage_counts_what_was_read_before(client: openai.OpenAI) -> None:
    messages: list[Any] = [*EXPAND[:1], {"role": "user", "content": "Question: What is Gidre known for?"}]
    kept = [client.chat.completions.create(model="reference", messages=messages, max_tokens=5) for _ in "12"]
    first, again = (answer.usage for answer in kept)
    assert first
    assert again
    assert first.prompt_tokens == again.prompt_tokens > 20
    assert first.completion_tokens == 5
    assert kept[0].choices[0].finish_reason == "length"
    assert again.prompt_tokens_details
    assert again.prompt_tokens_details.cached_tokens == again.prompt_tokens - 1
    several = client.chat.completions.create(model="reference", messages=messages, max_tokens=5, n=4)
    assert several.usage
    assert several.usage.prompt_tokens == first.prompt_tokens
    assert several.usage.completion_tokens <= 20


def test_control_tokens_cannot_be_forged(client: openai.OpenAI) -> None:
    def tokens(text: str) -> int:
        messages: list[Any] = [{"role": "user", "content": text}]
        answer = client.chat.completions.create(model="reference", messages=messages, max_tokens=1)
        assert answer.usage
        return answer.usage.prompt_tokens

    assert tokens("<|end|>") > tokens("") + 1  # letters, not the one token
    raw = client.completions.create(model="reference", prompt="<|bos|><|end|>", max_tokens=1).usage
    assert raw
    assert raw.prompt_tokens == 2  # who writes a whole prompt may write them


def test_a_schema_and_a_forced_call_are_conformed_to(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"year": {"type": "integer"}}, "required": ["year"]}
    create = client.chat.completions.create
    answer = create(
        model="reference",
        messages=EXPAND,
        max_tokens=24,
        seed=1,
        response_format=as_json(schema),
    )
    assert isinstance(json.loads(answer.choices[0].message.content or "")["year"], int)
    answer = create(
        model="reference", messages=EXPAND, max_tokens=48, response_format={"type": "json_object"}
    )
    assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)
    forced: Any = {"type": "function", "function": {"name": "add"}}
    for choice in ("required", forced):
        answer = create(model="reference", messages=EXPAND, max_tokens=64, tools=[ADD], tool_choice=choice)
        assert answer.choices[0].finish_reason == "tool_calls"
        assert answer.choices[0].message.tool_calls
        (call,) = answer.choices[0].message.tool_calls
        assert call.type == "function"
        assert call.function.name == "add"
        arguments = json.loads(call.function.arguments)
        assert arguments.keys() == {"a", "b"}
        assert all(isinstance(value, int) for value in arguments.values())


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"response_format": as_json({"not": {}})}, "'not' cannot"),
        (
            {"response_format": as_json({"const": "a long text"}), "max_tokens": 2},
            "max_tokens must be at least",
        ),
        ({"messages": [{"role": "user", "content": "a b " * 4000}]}, "shorten the prompt"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_only_the_engine_can_refuse(raw: httpx2.Client, body: Any, said: str, stream: bool) -> None:
    body = {"model": "reference", "messages": EXPAND, "stream": stream, **body}
    answer = raw.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]


def test_logprobs_are_the_same_in_a_stream(client: openai.OpenAI) -> None:
    create = client.chat.completions.create
    answer = create(
        model="reference", messages=EXPAND, temperature=0, max_tokens=8, logprobs=True, top_logprobs=2
    )
    (choice,) = answer.choices
    assert choice.logprobs
    tokens = choice.logprobs.content or []
    assert "".join(token.token for token in tokens) == choice.message.content
    assert all(token.top_logprobs[0].token == token.token for token in tokens)  # greedy
    assert all(token.logprob == token.top_logprobs[0].logprob <= 0 for token in tokens)
    stream = create(
        model="reference", messages=EXPAND, temperature=0, max_tokens=8, logprobs=True, stream=True
    )
    streamed = [
        token.logprob
        for chunk in stream
        if chunk.choices[0].logprobs
        for token in chunk.choices[0].logprobs.content or ()
    ]
    assert streamed == pytest.approx([token.logprob for token in tokens], abs=1e-3)
    plain = client.completions.create(model="reference", prompt="a", max_tokens=3, temperature=0, logprobs=1)
    assert plain.choices[0].logprobs
    assert "".join(plain.choices[0].logprobs.tokens or ()) == plain.choices[0].text


def test_programs_are_models(server: Server, client: openai.OpenAI) -> None:
    expected = rag.answer.using(server.client)(QUESTION)
    messages: list[Any] = [{"role": "user", "content": QUESTION}]
    answer = client.chat.completions.create(model="rag", messages=messages)
    assert answer.choices[0].message.content == expected
    assert answer.usage
    assert answer.usage.prompt_tokens > 100
    stream = client.chat.completions.create(model="rag", messages=messages, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == expected
    cited = client.chat.completions.create(model="cited", messages=messages, extra_body={"inputs": {"k": 3}})
    result = json.loads(cited.choices[0].message.content or "")
    assert result["answer"].startswith("Hujudru [")
    by_grpc = rag.cited_answer.using(server.client)(QUESTION, k=3)
    assert result["answer"] == by_grpc.answer
    assert [passage["id"] for passage in result["passages"]] == [passage.id for passage in by_grpc.passages]
    run = answer._request_id
    shown = json.loads(server.weft("runs", "--json").stdout)
    assert any(found["run"] == run for found in shown)


def test_embeddings_are_those_of_the_language(server: Server, client: openai.OpenAI) -> None:
    @program
    def vectors(texts: list[str]) -> list[list[float]]:
        return embed(texts)

    (name,) = [model.id for model in client.models.list() if (model.model_extra or {})["kind"] == "embedder"]
    answer = client.embeddings.create(model=name, input=["Hapo", "Gidre"])
    found = [each.embedding for each in answer.data]
    for row, expected in zip(found, vectors.using(server.client)(["Hapo", "Gidre"]), strict=True):
        assert row == pytest.approx(expected)


async def test_many_clients_at_once_get_what_each_gets_alone(server: Server) -> None:
    async with openai.AsyncOpenAI(base_url=f"http://{server.http}/v1", api_key="none") as client:

        async def ask(number: int) -> str:
            messages: list[Any] = [EXPAND[0], {"role": "user", "content": f"Question: Who leads {number}?"}]
            stream = await client.chat.completions.create(
                model="reference", messages=messages, temperature=0, max_tokens=12, stream=True
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        alone = [await ask(number) for number in range(4)]
        together = await asyncio.gather(*(ask(number % 4) for number in range(100)))
        assert together == alone * 25


def test_a_client_that_goes_away_frees_the_engine(server: Server, client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "Passage: rivers"}]
    schema = {"type": "string", "pattern": "^[ab]{1500}$"}
    stream = client.chat.completions.create(
        model="reference",
        messages=messages,
        n=16,  # so that it takes longer than it may take until a worker says what it does
        temperature=1.0,
        stream=True,
        response_format=as_json(schema),
    )
    next(iter(stream))
    eventually(lambda: server.status().running > 0)
    stream.close()
    eventually(lambda: not server.status().running)
    status = server.status()
    assert (status.kv_running, status.contexts, status.waiting) == (0, 0, 0)
    assert server.client.runs(limit=1)[0].state == "cancelled"


def test_a_key_and_a_quiet_end(tmp_path: Path) -> None:
    options = ("--http", "127.0.0.1:0", "--api-key", "secret")
    with serving(tmp_path, *options) as server:
        address = f"http://{server.http}/v1"
        stranger = openai.OpenAI(base_url=address, api_key="wrong", max_retries=0)
        with stranger, pytest.raises(openai.AuthenticationError):
            stranger.models.list()
        for line in Path("/proc").glob("[0-9]*/cmdline"):
            if line.exists() and b"weft.runtime.orchestrator" in (shown := _read(line)):
                assert b"secret" not in shown
        with openai.OpenAI(base_url=address, api_key="secret", max_retries=0) as client:
            stream = client.chat.completions.create(
                model="reference",
                messages=EXPAND,
                stream=True,
                temperature=1.0,  # signs that nobody can foresee, a token each, so that it takes its time
                response_format=as_json({"pattern": "^([0-9][A-Z]){1500}$"}),
            )
            next(iter(stream))
            server.process.send_signal(signal.SIGINT)
            with pytest.raises(openai.APIError, match="the server is shutting down"):
                list(stream)
        assert server.process.wait(timeout=20) == 0


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""  # the process has ended
