"""Waits of async programs that are cancelled: the models stop, and the run goes on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from weft import Run, Var, gen, program, tool
from weft.frontend.client.events import NodeChanged, NodePhase
from weft.frontend.errors import ToolError

from .conftest import Server, eventually
from .test_failures import brief

LONG = 1500
SHORT = 300

_go_on, _end = threading.Event(), threading.Event()
_seen: list[str] = []


def long_text(topic: str, length: int = LONG) -> Var[str]:
    """A text that does not repeat itself, so that there is time to interfere."""
    return gen(f"Passage: {topic}", max_tokens=length, regex=f"[ab]{{{length}}}", temperature=9.0, seed=7)


async def told_to_go_on() -> None:
    await asyncio.to_thread(_go_on.wait, 60)


async def given_up(text: Var[str]) -> None:
    """Wait for a text until the test says so, and then no longer."""
    waiting = asyncio.ensure_future(text)
    await told_to_go_on()
    waiting.cancel()
    await asyncio.wait({waiting})
    _seen.append("given up")


@tool
def note(text: str) -> str:
    """Ends when the test says so."""
    _seen.append(f"called with {text}")
    _end.wait(60)
    _seen.append("noted")
    return text


@tool
def broken(text: str) -> str:
    """Fails when the test says so."""
    _seen.append("called")
    _end.wait(60)
    raise KeyError(text)


@program
async def whole(topic: str, length: int = LONG) -> str:
    return long_text(topic, length)


@program
async def in_time(topic: str) -> str:
    try:
        return await asyncio.wait_for(long_text(topic), 0.3)
    except TimeoutError:
        await told_to_go_on()
        return await gen(f"Question: {topic}", max_tokens=8)


@program
async def raced(topic: str) -> str:
    racing = {asyncio.ensure_future(text) for text in (long_text(topic), gen("Question: x", max_tokens=4))}
    done, pending = await asyncio.wait(racing, return_when=asyncio.FIRST_COMPLETED)
    for loser in pending:
        loser.cancel()
    (winner,) = done
    await told_to_go_on()
    return str(await winner)


@program
async def grouped(topic: str) -> str:
    async def failing() -> None:
        await told_to_go_on()
        _go_on.clear()
        raise KeyError(topic)

    async def writing() -> None:
        await long_text(topic)

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(failing())
            group.create_task(writing())
    except* KeyError:
        await told_to_go_on()
    return "went on"


@program
async def shared(topic: str) -> list[str]:
    draft = long_text(topic, SHORT)
    title = gen(f"Question: {draft}", max_tokens=8)
    await given_up(draft)
    return [await title, await draft]


@program
async def called(topic: str) -> str:
    await given_up(note(long_text(topic)))
    return "went on"


@program
async def calling(topic: str) -> str:
    await given_up(note(topic))
    return "went on"


@program
async def calling_in_vain(topic: str, *, again: bool) -> str:
    failing = broken(topic)
    await given_up(failing)
    return await failing if again else await note(topic)


@program
async def tried_again(topic: str, *, shielded: bool) -> tuple[int, str]:
    text, late = long_text(topic, SHORT), 0
    for limit in (0.05, 0.05, None):
        try:
            return late, await asyncio.wait_for(asyncio.shield(text) if shielded else text, limit)
        except TimeoutError:
            late += 1
    raise AssertionError("the last wait has no limit")


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    _seen.clear()
    for event in (_go_on, _end):
        event.clear()
    yield
    for event in (_go_on, _end):
        event.set()


def freed(server: Server) -> bool:
    """Whether no model computes, or has anything of its KV in use."""
    status = server.status()
    return not (status.running or status.kv_running or status.waiting)


def decodes(run: Run[Any], phase: NodePhase) -> Iterator[NodeChanged]:
    """What a run says of its texts, until it is over."""
    for event in run.events():
        if isinstance(event, NodeChanged) and "decode" in event.label and event.phase == phase:
            yield event


def attempts(run: Run[Any]) -> int:
    """How often a run that is over has begun to write a text."""
    return len(list(decodes(run, "started")))


def test_a_step_that_runs_out_of_time_is_not_written_on(server: Server) -> None:
    run = in_time.using(server.client).submit("rivers")
    next(decodes(run, "cancelled"))
    eventually(lambda: freed(server))
    assert run.status == "running"
    _go_on.set()
    assert run.result() == brief.using(server.client)("rivers")


def test_other_runs_are_not_disturbed(server: Server) -> None:
    undisturbed = whole.using(server.client)("hills")
    other = whole.using(server.client).submit("hills")
    run = in_time.using(server.client).submit("rivers")
    assert other.result() == undisturbed
    assert run.status == "running"
    _go_on.set()
    run.result()


def test_the_loser_of_a_race_is_not_written_on(server: Server) -> None:
    run = raced.using(server.client).submit("rivers")
    next(decodes(run, "cancelled"))
    eventually(lambda: freed(server))
    assert run.status == "running"
    _go_on.set()
    assert run.result()


def test_what_a_task_group_gives_up_is_not_written_on(server: Server) -> None:
    run = grouped.using(server.client).submit("rivers")
    next(decodes(run, "started"))
    _go_on.set()
    next(decodes(run, "cancelled"))
    eventually(lambda: freed(server))
    assert run.status == "running"
    _go_on.set()
    assert run.result() == "went on"


def test_what_somebody_else_takes_is_written_to_its_end(server: Server) -> None:
    run = shared.using(server.client).submit("rivers")
    next(decodes(run, "started"))
    _go_on.set()
    title, draft = run.result()
    assert draft == whole.using(server.client)("rivers", SHORT)
    assert title
    assert attempts(run) == 2


def test_a_tool_whose_argument_is_not_there_does_not_begin(server: Server) -> None:
    run = called.using(server.client).submit("rivers")
    next(decodes(run, "started"))
    _go_on.set()
    assert run.result() == "went on"
    eventually(lambda: freed(server))
    assert _seen == ["given up"]


def test_a_tool_that_has_begun_runs_to_its_end(server: Server) -> None:
    run = calling.using(server.client).submit("rivers")
    eventually(lambda: bool(_seen))
    _go_on.set()
    eventually(lambda: "given up" in _seen)
    assert run.status == "running"
    _end.set()
    assert run.result() == "went on"
    assert _seen == ["called with rivers", "given up", "noted"]


@pytest.mark.parametrize("again", [False, True])
def test_a_tool_that_fails_after_it_was_given_up_matters_only_to_who_awaits_it_again(
    server: Server, again: bool
) -> None:
    run = calling_in_vain.using(server.client).submit("rivers", again=again)
    eventually(lambda: bool(_seen))
    _go_on.set()
    eventually(lambda: "given up" in _seen)
    _end.set()
    if not again:
        assert run.result() == "rivers"
        return
    with pytest.raises(ToolError, match="rivers") as raised:
        run.result()
    assert isinstance(raised.value.__cause__, KeyError)
    assert _seen == ["called", "given up"]


@pytest.mark.parametrize("shielded", [False, True])
def test_what_is_awaited_again_is_written_anew_unless_it_is_shielded(server: Server, shielded: bool) -> None:
    run = tried_again.using(server.client).submit("rivers", shielded=shielded)
    late, text = run.result()
    assert late
    assert text == whole.using(server.client)("rivers", SHORT)
    assert attempts(run) == (1 if shielded else late + 1)
