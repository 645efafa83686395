"""What holds for every request: the key, sizes, paths, errors of the server's own, and the log."""

from __future__ import annotations

import logging
import socket
from contextlib import closing
from typing import Any

import openai
import pytest
from starlette.applications import Starlette

from weft.proto import value_pb2
from weft.runtime.http import app
from weft.runtime.http.server import HttpServer
from weft.runtime.orchestrator.orchestrator import Orchestrator
from weft.runtime.orchestrator.server import AddressError

from .conftest import KEY, Door, StartDoor, language_model

HI: list[Any] = [{"role": "user", "content": "hi"}]
CHAT = "/v1/chat/completions"


async def test_models_are_listed(door: Door) -> None:
    models = [model async for model in door.openai.models.list()]
    kinds = {model.id: model.model_extra["kind"] for model in models if model.model_extra}
    assert kinds == {
        "m": "model",
        "ask": "program",
        "compare": "program",
        "count": "program",
        "lost": "program",
        "old": "program",
        "hash": "embedder",
    }
    model = await door.openai.models.retrieve("m")
    assert (model.id, model.object, model.owned_by) == ("m", "model", "weft")
    assert model.model_extra
    assert model.model_extra["max_model_len"] == 1000
    with pytest.raises(openai.NotFoundError, match="there is no model 'x'; there are: 'm', 'ask'"):
        await door.openai.models.retrieve("x")


async def test_readiness_and_health(start_door: StartDoor) -> None:
    door = await start_door(api_key="k")
    assert (await door.raw.get("/health")).json() == {"status": "ok"}
    ready = await door.raw.get("/ready")
    assert (ready.status_code, ready.json()) == (503, {"status": "waiting", "missing": ["m"]})
    await door.worker("w", language_model("m"))
    assert (await door.raw.get("/ready")).status_code == 200


async def test_the_key_is_asked_for(start_door: StartDoor) -> None:
    door = await start_door(api_key=KEY)
    await door.worker("w")
    assert (await door.openai.chat.completions.create(model="m", messages=HI)).choices
    for values in ([], ["Bearer wrong"], [KEY], ["é"], [f"Bearer {KEY}", "Bearer wrong"]):
        headers = [(b"authorization", value.encode("latin-1")) for value in values]
        answer = await door.raw.post(CHAT, json={"model": "m", "messages": HI}, headers=headers)
        assert answer.status_code == 401
        error = answer.json()["error"]
        assert (error["code"], error["type"]) == ("invalid_api_key", "authentication_error")
        assert "Authorization: Bearer KEY" in error["message"]
    with pytest.raises(openai.AuthenticationError):
        await door.openai.with_options(api_key="other").models.list()


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        (b"{", 400, "the body is not JSON: Expecting property name"),
        (b"", 400, "the body is not JSON"),
        (b"\xff", 400, "the body is not JSON"),
        (b"[1]", 400, "the body must be a JSON object, not [1]"),
        (b'{"temperature": NaN}', 400, "NaN is no number"),
        (b"[" * 100_000, 400, "the body is nested too deeply"),
        (b'{"model": "\\ud800"}', 400, "half of a surrogate pair"),
        (b'{"model": "\xed\xa0\x80"}', 400, "the body is not JSON: 'utf-8' codec can't decode byte 0xed"),
        ('{"model": "\\ud800"}'.encode("utf-16"), 400, "the body is not JSON: 'utf-8' codec can't decode"),
        (b'\xef\xbb\xbf{"messages": []}', 400, "'model' is missing"),
        (b'{"model": "' + b"a" * 2**20 + b'"}', 413, "more than 1048576 bytes; send less, or raise"),
    ],
)
async def test_bodies_that_are_refused(door: Door, content: bytes, status: int, said: str) -> None:
    answer = await door.raw.post(CHAT, content=content)
    assert answer.status_code == status
    assert said in answer.json()["error"]["message"]


async def test_a_large_body_in_chunks_is_refused_too(door: Door) -> None:
    async def chunks() -> Any:
        for _ in range(40):
            yield b"a" * 2**16

    assert (await door.raw.post(CHAT, content=chunks())).status_code == 413


@pytest.mark.parametrize(
    ("method", "path", "status", "said"),
    [
        ("GET", "/v1/chats", 404, "GET /v1/chats: not found"),
        ("GET", CHAT, 405, f"GET {CHAT}: method not allowed"),
    ],
)
async def test_unknown_paths_and_methods(door: Door, method: str, path: str, status: int, said: str) -> None:
    answer = await door.raw.request(method, path)
    assert answer.status_code == status
    assert said in answer.json()["error"]["message"]


async def test_a_run_that_fails_says_how(door: Door) -> None:
    for code, status, name in (
        ("too_large", 400, "context_length_exceeded"),
        ("timeout", 504, "timeout"),
        ("internal", 500, "internal"),
    ):
        door.workers[0].faults = [value_pb2.Fault(code=code, message="because")]
        found, error = await door.refused(CHAT, {"model": "m", "messages": HI})
        assert (found, error["code"], error["message"]) == (status, name, "because")
        door.workers[0].faults = [value_pb2.Fault(code=code, message="because")]
        found, error = await door.refused(CHAT, {"model": "m", "messages": HI, "stream": True})
        assert (found, error["code"]) == (status, name)  # nothing had been sent, so the status says it


async def test_a_mistake_of_the_server_is_told_and_logged(
    door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: Orchestrator) -> Any:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(app, "model_cards", broken)
    answer = await door.raw.get("/v1/models")
    assert answer.status_code == 500
    assert answer.json()["error"]["message"] == "ZeroDivisionError: oops"
    assert "Traceback" in caplog.text


async def test_requests_are_logged(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "weft.runtime.http")
    answer = await door.openai.chat.completions.create(model="m", messages=HI)
    await door.raw.get("/health")
    (line,) = [record.getMessage() for record in caplog.records if record.name.endswith("gate")]
    assert line.startswith("POST /v1/chat/completions from 127.0.0.1: 200 in ")
    assert line.endswith(f" ms, run {answer.id.removeprefix('chatcmpl-')}")


async def test_an_address_that_is_taken() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(AddressError, match="in use; name another address \\(--http HOST:PORT\\)"):
            await HttpServer(address, Starlette()).start()
