"""Waits that are cancelled: what the server is told of them, and what awaiting the value again gives."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any, cast

import pytest

from weft import Var, gen
from weft.frontend.client.session import Session
from weft.frontend.dynamic import LiveTrace
from weft.graph.ir import Graph, Value
from weft.graph.values import Datum, TextValue


class Wire:
    """In place of a session: what was asked for and taken back, in order, and values on demand."""

    def __init__(self) -> None:
        self.said: list[tuple[str, int]] = []
        self.values: defaultdict[Value, Future[Datum]] = defaultdict(Future)
        self.waits: list[Future[Datum]] = []

    def extend(
        self,
        increment: Graph,
        wanted: Sequence[Value],
        stream: Sequence[Value] = (),
        withdrawn: Sequence[Value] = (),
    ) -> None:
        """As of a session."""
        self.said += [("made", node.id) for node in increment.nodes]
        self.said += [("withdrawn", value.node) for value in withdrawn]
        self.said += [("wanted", value.node) for value in wanted]

    def value(self, value: Value) -> Future[Datum]:
        """As of a session; a wait that is given up leaves the value where it is."""
        waiting: Future[Datum] = Future()
        self.waits.append(waiting)
        self.values[value].add_done_callback(
            lambda known: None if waiting.cancelled() else waiting.set_result(known.result())
        )
        return waiting

    def send(self, node: int, text: str) -> None:
        self.values[Value(node)].set_result(TextValue(text))


@pytest.fixture
async def trace() -> LiveTrace:
    return LiveTrace("p")


@pytest.fixture
def wire(trace: LiveTrace) -> Iterator[Wire]:
    """What a program talks to, as which each test acts."""
    wire = Wire()
    trace.attach(cast(Session, wire))
    with trace.active():
        yield wire


async def turn() -> None:
    """Let what is due happen."""
    for _ in range(5):
        await asyncio.sleep(0)


async def waiting(*vars: Var[Any]) -> list[asyncio.Task[Any]]:
    tasks = [asyncio.ensure_future(var) for var in vars]
    await turn()
    return tasks


async def test_a_wait_that_runs_out_of_time_withdraws_the_value(wire: Wire) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(gen("x"), 0.001)
    await turn()
    assert wire.said == [("made", 0), ("wanted", 0), ("withdrawn", 0)]
    assert [wait.cancelled() for wait in wire.waits] == [True]


async def test_the_last_who_waits_withdraws_it(wire: Wire) -> None:
    text = gen("x")
    tasks = await waiting(text, text, text)
    for task in tasks:
        assert ("withdrawn", 0) not in wire.said
        task.cancel()
        await turn()
    assert wire.said == [("made", 0), ("wanted", 0), ("withdrawn", 0)]


async def test_the_loser_of_a_race_is_withdrawn(wire: Wire) -> None:
    tasks = await waiting(gen("x"), gen("y"))
    wire.send(1, "first")
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await turn()
    assert [task.result() for task in done] == ["first"]
    assert wire.said[-1] == ("withdrawn", 0)


async def test_what_a_task_group_gives_up_is_withdrawn(wire: Wire) -> None:
    async def wrong() -> None:
        await turn()
        raise KeyError("mine")

    async def right(text: Var[str]) -> str:
        return await text

    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(right(gen("x")))
            group.create_task(wrong())

    with pytest.raises(ExceptionGroup):
        await both()
    await turn()
    assert wire.said == [("made", 0), ("wanted", 0), ("withdrawn", 0)]


async def test_a_shielded_value_goes_on(wire: Wire) -> None:
    text = gen("x")
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(text), 0.001)
    (task,) = await waiting(text)
    wire.send(0, "there")
    assert await task == "there"
    assert wire.said == [("made", 0), ("wanted", 0)]


async def test_what_is_awaited_again_is_asked_for_again(wire: Wire) -> None:
    text = gen("x")
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(text, 0.001)
    (task,) = await waiting(text)
    wire.send(0, "there")
    assert await task == "there"
    assert await text == "there"
    assert wire.said == [("made", 0), *[("wanted", 0), ("withdrawn", 0)] * 2, ("wanted", 0)]


async def test_what_is_awaited_again_at_once_is_wanted(wire: Wire) -> None:
    text = gen("x")
    (task,) = await waiting(text)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await waiting(text)
    assert wire.said == [("made", 0), ("wanted", 0), ("withdrawn", 0), ("wanted", 0)]


async def test_a_wait_that_is_cancelled_as_soon_as_it_has_begun(wire: Wire) -> None:
    task = asyncio.ensure_future(gen("x"))
    asyncio.get_running_loop().call_soon(task.cancel)  # before the loop comes to what its first step sends
    await turn()
    assert wire.said == [("made", 0), ("wanted", 0), ("withdrawn", 0)]


async def test_a_value_that_is_there_is_not_withdrawn(wire: Wire, trace: LiveTrace) -> None:
    text = gen("x")
    (task,) = await waiting(text)
    trace._values[Value(0)].add_done_callback(lambda _: task.cancel())  # before the task has been woken
    wire.send(0, "there")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await text == "there"
    assert ("withdrawn", 0) not in wire.said


async def test_a_program_that_is_over_withdraws_nothing(wire: Wire, trace: LiveTrace) -> None:
    (task,) = await waiting(gen("x"))
    trace.closed = True
    task.cancel()
    await turn()
    assert wire.said == [("made", 0), ("wanted", 0)]
