"""What happens in a run of real models, as its client sees it: on a server, and in an embedded runtime."""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from weft import (
    Client,
    Context,
    Event,
    RunFinished,
    TextAdded,
    ToolEnded,
    ToolStarted,
    gen,
    map,
    program,
    tool,
)
from weft.apps.instructions import AGENT

from .conftest import Server
from .test_failures import llm_workers, ramble


class Step(BaseModel):
    tool: str
    input: str


@tool
def look_up(topic: str) -> list[str]:
    return [f"{topic} is a town", f"{topic} lies on a river"]


@program
def report(topic: str) -> str:
    parts = map(lambda fact: gen(f"Passage: {fact}", max_tokens=12, name="part"), look_up(topic))
    return gen(f"Passage: {parts}", max_tokens=12, name="whole")


@program
async def act(question: str) -> Step:
    chat = Context(system=AGENT).user(f"Question: {question}")
    step = await chat.gen(type=Step, max_tokens=48, name="step")
    seen = look_up(step.input)
    return await chat.user(f"Observation: {seen}").gen(type=Step, max_tokens=48, name="step")


@pytest.fixture(params=["server", "embedded"])
def client(
    request: pytest.FixtureRequest, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Client]:
    """Of a server over TCP, or of a runtime that is started for this process alone."""
    if request.param == "server":
        yield server.client
        return
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WEFT_SERVER", raising=False)
    with Client() as embedded:
        yield embedded


def texts(events: Iterable[Event]) -> list[tuple[str, str]]:
    """The name and the text of everything that was written."""
    names: dict[int, str] = {}
    pieces: defaultdict[int, str] = defaultdict(str)
    for event in events:
        if isinstance(event, TextAdded):
            names[event.node] = event.name
            pieces[event.node] += event.text
    return [(names[node], text) for node, text in pieces.items()]


def test_a_program_tells_its_texts_its_tools_and_its_result(client: Client) -> None:
    events = list(report.using(client).events("Hapo"))
    last = events[-1]
    assert isinstance(last, RunFinished)
    assert last.result == report.using(client)("Hapo")
    written = texts(events)
    assert sorted(name for name, _ in written) == ["part", "part", "whole"]
    assert dict(written)["whole"] == last.result
    started, ended = [e for e in events if isinstance(e, ToolStarted | ToolEnded)]
    assert isinstance(started, ToolStarted)
    assert started.arguments == {"topic": "Hapo"}
    assert isinstance(ended, ToolEnded)
    assert ended.result == ["Hapo is a town", "Hapo lies on a river"]


async def test_an_async_program_does_so_on_an_event_loop(client: Client) -> None:
    events = [event async for event in act.using(client).aevents("Who is the mayor of Fiba?")]
    last = events[-1]
    assert isinstance(last, RunFinished)
    first, second = [Step.model_validate_json(text) for name, text in texts(events) if name == "step"]
    assert last.result == second
    kinds = [type(event) for event in events if isinstance(event, TextAdded | ToolStarted | ToolEnded)]
    at = kinds.index(ToolStarted)
    assert set(kinds[:at]) == set(kinds[at + 2 :]) == {TextAdded}
    (ended,) = [event for event in events if isinstance(event, ToolEnded)]
    assert ended.result == look_up(first.input)


def test_who_watches_a_run_from_elsewhere_sees_the_same(server: Server) -> None:
    run = report.using(server.client).submit("Fiba", stream=True)
    run.result(timeout=60)
    seen = list(server.client.run(run.id).events())
    assert sorted(texts(seen)) == sorted(texts(run.events()))
    assert isinstance(seen[-1], RunFinished)
    assert seen[-1].result == run.result()


def test_a_stream_repeats_nothing_when_its_worker_is_killed(own_server: Server) -> None:
    pieces: list[str] = []
    for piece in ramble.using(own_server.client).stream("rivers"):
        pieces.append(piece)
        if len(pieces) == 100:
            for pid in llm_workers(own_server.client).values():
                os.kill(pid, signal.SIGKILL)
    assert "".join(pieces) == ramble.using(own_server.client)("rivers")
