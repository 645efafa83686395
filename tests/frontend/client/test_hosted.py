"""Programs as tools of the worker that this process is."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from weft import gen, program, tool
from weft.frontend.errors import ProgramError
from weft.frontend.hosted import as_tool, call_of
from weft.frontend.verbs import Program
from weft.graph.ops.common import Tool
from weft.graph.types import JSON, TEXT
from weft.runtime.outer_run import OUTER, OuterRun
from weft.runtime.worker.faults import TaskError

if TYPE_CHECKING:
    from ..conftest import MiniServer


class Point(BaseModel):
    x: int
    y: int = 0


@tool
def mirrored(point: Point) -> Point:
    return Point(x=point.y, y=point.x)


@program
async def says(text: str) -> str:
    return gen(f"Say {await gen(text)}")


async def _tells(text: str) -> Any:
    return gen(text)


del _tells.__annotations__["return"]  # as those write who annotate nothing
tells = program(_tells)


@program
def mirrors(point: Point) -> Point:
    return mirrored(point)


@program
async def where(text: str) -> str:
    return threading.current_thread().name


@program
async def raises(text: str) -> str:
    raise LookupError(text)


@program
async def exits(text: str) -> str:
    sys.exit(3)


@program
async def gives_up(text: str) -> str:
    raise ProgramError("too late", code="of its own", node="%3 decode", location="x.py:1", worker="w")


@program
async def gives_way(text: str) -> str:
    raise asyncio.CancelledError


@pytest.fixture
def written() -> Iterator[list[str]]:
    """What is written of results before their ends."""
    pieces: list[str] = []
    token = OUTER.set(OuterRun("r-1", "tenant", 1, pieces.append))
    yield pieces
    OUTER.reset(token)


async def call(which: Program[..., Any], **arguments: Any) -> Any:
    made = as_tool(which, "served")
    return await made.function(**made.bind(arguments))


async def test_a_text_is_written_as_it_comes(server: MiniServer, written: list[str]) -> None:
    text = await call(says, text="hey")
    assert text == "[<user>Say [<user>hey<assistant>]<assistant>]"
    assert written == [text[:3], text[3:]]
    submitted = server.last.start.submit
    assert (submitted.parent, submitted.namespace, submitted.priority) == ("r-1", "tenant", 1)


async def test_results_without_a_type_come_whole(server: MiniServer, written: list[str]) -> None:
    assert await call(tells, text="hey") == "[<user>hey<assistant>]"
    assert written == []


async def test_arguments_and_results_are_converted(server: MiniServer, written: list[str]) -> None:
    assert await call(mirrors, point={"x": 1}) == {"x": 0, "y": 1}
    with pytest.raises(TaskError, match=r"tool 'served': point\.x: Field required"):
        await call(mirrors, point={})


async def test_a_program_that_blocks_its_loop_does_not_block_the_worker(server: MiniServer) -> None:
    assert await call(where, text="") == "weft-programs"


@pytest.mark.parametrize(
    ("which", "code", "message"),
    [
        (raises, "tool_failed", "program 'served' raised LookupError: why"),
        (gives_up, "internal", "too late"),
    ],
)
async def test_what_a_program_raises_says_where(
    server: MiniServer, which: Program[..., Any], code: str, message: str
) -> None:
    with pytest.raises(TaskError) as raised:
        await call(which, text="why")
    problem = raised.value
    assert (problem.code, str(problem)) == (code, message)
    place = ("%3 decode", "x.py:1", "w") if which is gives_up else ("", problem.location, "")
    assert (problem.node, problem.location, problem.worker) == place
    assert problem.location.partition(":")[0].endswith(("test_hosted.py", "x.py"))


async def test_what_a_run_fails_of_is_told_as_it_is(server: MiniServer) -> None:
    with pytest.raises(TaskError, match="the model broke") as raised:
        await call(says, text="FAIL")
    assert raised.value.code == "internal"
    assert "decode" in raised.value.node
    assert "test_hosted.py" in raised.value.location


async def test_a_program_that_exits_ends_nothing_else(server: MiniServer) -> None:
    with pytest.raises(SystemExit):  # of which the worker makes a fault, as of all that tools raise
        await call(exits, text="")
    with pytest.raises(asyncio.CancelledError):
        await call(gives_way, text="")
    assert await call(where, text="") == "weft-programs"


async def test_cancelling_the_call_cancels_the_run(server: MiniServer) -> None:
    calling = asyncio.ensure_future(call(says, text="HANG"))
    while not server.prompts:
        await asyncio.sleep(0.01)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    await asyncio.to_thread(server.last.cancelled.wait, 30)
    assert server.last.cancelled.is_set()


def test_a_call_gives_what_the_program_gives() -> None:
    assert as_tool(tells, "t").result == JSON
    assert as_tool(says, "t").result == TEXT
    _, called = call_of(mirrors, "t")
    assert isinstance(called.op, Tool)
    assert called.op.result == as_tool(mirrors, "t").result
