"""Runs that go on beside their caller, on event loops: asubmit, and the async methods of runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from weft import Run, RunFinished, TraceError, gen, program, tool
from weft.frontend.errors import NotFound, RunCancelled

if TYPE_CHECKING:
    from ..conftest import MiniServer

loops: list[asyncio.AbstractEventLoop] = []


@tool
async def here(text: str) -> str:
    loops.append(asyncio.get_running_loop())
    return text.upper()


@program
async def shout(text: str) -> str:
    loops.append(asyncio.get_running_loop())
    return gen(f"Say {here(text)}", name="said")


@program
def echo(text: str) -> str:
    return gen(f"Say {text}")


@program
def with_tool(text: str) -> str:
    return gen(f"Say {here(text)}")


async def test_programs_and_tools_run_on_the_loop_of_the_caller(server: MiniServer) -> None:
    loops.clear()
    runs = [await shout.asubmit("a"), await with_tool.asubmit("b")]
    results = [await run.aresult() for run in runs]
    assert results == ["[<user>Say A<assistant>]", "[<user>Say B<assistant>]"]
    assert loops == [asyncio.get_running_loop()] * 3
    assert [run.status for run in runs] == ["done", "done"]


async def test_a_streamed_run(server: MiniServer) -> None:
    run = await shout.asubmit("a", stream=True)
    events = [event async for event in run.aevents()]
    assert isinstance(events[-1], RunFinished)
    assert events[-1].result == await run.aresult() == "[<user>Say A<assistant>]"


@pytest.mark.parametrize(
    ("wait", "instead"),
    [
        (lambda run: run.result(), "aresult"),
        (lambda run: list(run.events()), "aevents"),
        (lambda run: list(run.pieces()), "aevents"),
    ],
)
async def test_waiting_on_the_loop_of_the_program_is_a_mistake(
    server: MiniServer, wait: Callable[[Run[str]], Any], instead: str
) -> None:
    run = await shout.asubmit("a", stream=True)
    with pytest.raises(TraceError, match=rf"test_submitting\.py:\d+: the run goes on .* `{instead}\(\)`"):
        wait(run)
    assert await asyncio.to_thread(wait, run)
    assert await run.aresult() == "[<user>Say A<assistant>]"


async def test_cancelling(server: MiniServer) -> None:
    run = await shout.asubmit("HANG")
    await run.acancel()
    with pytest.raises(RunCancelled):
        await run.aresult()
    assert run.status == "cancelled"
    await run.acancel()  # a run that is over stays as it is


async def test_detached_runs(server: MiniServer) -> None:
    run = await echo.asubmit("a", detached=True)
    assert await run.aresult() == "[<user>Say a<assistant>]"
    assert await (await echo.client.arun(run.id)).aresult() == "[<user>Say a<assistant>]"
    with pytest.raises(NotFound):
        await echo.client.arun("nothing")
    with pytest.raises(TraceError, match="a detached run cannot use 'here'"):
        await with_tool.asubmit("a", detached=True)
    with pytest.raises(TraceError, match="its run cannot be detached"):
        await shout.asubmit("a", detached=True)
    with pytest.raises(TraceError, match="a detached run cannot be streamed"):
        await echo.asubmit("a", detached=True, stream=True)


def test_a_run_ends_with_the_loop_that_it_was_submitted_on(server: MiniServer) -> None:
    run = asyncio.run(_submitted())
    with pytest.raises(RunCancelled, match="program 'shout': the run was abandoned"):
        run.result(timeout=10)
    with pytest.raises(RunCancelled, match="abandoned"):
        asyncio.run(run.aresult())
    assert server.last.cancelled.wait(10)


async def test_who_is_cancelled_waits_no_longer_and_the_run_goes_on(server: MiniServer) -> None:
    run = await shout.asubmit("a")
    waiting = asyncio.ensure_future(run.aresult())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await run.aresult() == "[<user>Say A<assistant>]"


async def _submitted() -> Run[str]:
    return await shout.asubmit("HANG")
