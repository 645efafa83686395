"""`emit`: what tools and async programs tell those who follow a run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pytest

from weft import Emitted, Event, RunFinished, ToolEnded, TraceError, emit, gen, map, program, tool

if TYPE_CHECKING:
    from ..conftest import MiniServer


@tool
def fetch(page: str) -> str:
    emit({"page": page, "done": 0.5})
    return page.upper()


@tool
async def fetch_async(page: str) -> str:
    await asyncio.sleep(0)
    emit(page)
    return page.upper()


@tool
async def nested(page: str) -> str:
    emit("before")
    inner = await reads.ainvoke([page])
    emit("after")
    return inner[0]


@program
def reads(pages: list[str]) -> list[str]:
    return map(lambda page: gen(f"Read {fetch(page)}"), pages)


@program
async def thinks(page: str) -> str:
    emit("begun")
    seen = await fetch_async(page)
    emit(Exception)  # whatever it is: it stays in this process
    return gen(seen)


@program
def nests(page: str) -> str:
    return nested(page)


def emitted(events: Iterable[Event]) -> list[Any]:
    return [event.value for event in events if isinstance(event, Emitted)]


def test_tools_tell_before_they_end(server: MiniServer) -> None:
    events = list(reads.events(["a", "b"]))
    assert emitted(events) == [{"page": "a", "done": 0.5}, {"page": "b", "done": 0.5}]
    kinds = [type(event) for event in events if isinstance(event, Emitted | ToolEnded | RunFinished)]
    assert kinds == [Emitted, ToolEnded] * 2 + [RunFinished]
    assert all(event.at >= 0 for event in events if isinstance(event, Emitted))


def test_async_programs_and_tools_tell(server: MiniServer) -> None:
    assert emitted(thinks.events("a")) == ["begun", "a", Exception]


async def test_on_the_event_loop_of_the_caller(server: MiniServer) -> None:
    assert emitted([event async for event in thinks.aevents("a")]) == ["begun", "a", Exception]
    emit("nobody hears it: the run is over, and this is no part of it")
    run = thinks.submit("a", stream=True)
    assert emitted([event async for event in run.aevents()]) == ["begun", "a", Exception]


def test_a_run_within_a_tool_has_its_own(server: MiniServer) -> None:
    assert emitted(nests.events("a")) == ["before", "after"]


def test_without_a_run_it_does_nothing() -> None:
    emit("x")
    assert fetch("a") == "A"


def test_while_a_program_is_traced_there_is_no_run() -> None:
    @program
    def traced() -> str:
        emit("x")
        return "y"

    with pytest.raises(TraceError, match=r"test_emit\.py:\d+: emit\(\) tells what happens in a run"):
        traced.graph()
