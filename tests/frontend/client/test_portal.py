"""Async functions run from threads without a loop, and Ctrl-C meanwhile."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterator
from typing import Any

import pytest

from weft.frontend.client.portal import Portal
from weft.frontend.waiting import iterate


@pytest.fixture
def portal() -> Iterator[Portal]:
    made = Portal("weft-test")
    yield made
    made.stop()


class Endless:
    """An async function that ends only when it is cancelled."""

    def __init__(self) -> None:
        self.begun, self.ended = threading.Event(), threading.Event()

    async def __call__(self) -> None:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.set()


async def halved(number: int, by: int = 2) -> float:
    return number / by


def test_results_and_errors_come_back(portal: Portal) -> None:
    assert portal.call(halved, 3) == 1.5
    assert portal.start(halved, 3).result() == 1.5
    with pytest.raises(ZeroDivisionError):
        portal.call(halved, 3, by=0)


def test_a_program_that_exits_leaves_the_loop_to_others(portal: Portal) -> None:
    async def leaving() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        portal.start(leaving).result(10)
    assert portal.start(halved, 3).result(10) == 1.5


def test_ctrl_c_cancels_what_is_waited_for(portal: Portal) -> None:
    endless = Endless()

    async def interrupting() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        await endless()

    with pytest.raises(KeyboardInterrupt):
        portal.call(interrupting)
    assert endless.ended.wait(10)


def test_ctrl_c_ends_a_generator_before_it_is_raised() -> None:
    ended = []

    async def numbers() -> AsyncGenerator[int]:
        try:
            yield 1
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            await asyncio.sleep(3600)
        finally:
            for _ in range(100):  # cancels what it has begun, and waits for that
                await asyncio.sleep(0)
            ended.append(True)

    with pytest.raises(KeyboardInterrupt):
        list(iterate(numbers()))
    assert ended


def test_ctrl_c_just_after_the_start_cancels_too(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    endless, call_soon = Endless(), portal.loop.call_soon_threadsafe

    def interrupted(callback: Any, *args: Any) -> None:
        call_soon(callback, *args)
        monkeypatch.undo()
        assert endless.begun.wait(10)
        raise KeyboardInterrupt

    monkeypatch.setattr(portal.loop, "call_soon_threadsafe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        portal.call(endless)
    assert endless.ended.wait(10)


def test_ctrl_c_while_the_loop_starts_leaves_nothing_behind(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Portal) -> asyncio.AbstractEventLoop:
        raise KeyboardInterrupt

    made: list[int] = []

    def counted(number: int) -> Coroutine[Any, Any, float]:
        made.append(number)
        return halved(number)

    monkeypatch.setattr(Portal, "loop", property(interrupted))
    with pytest.raises(KeyboardInterrupt):
        portal.start(counted, 1)
    assert made == []


def test_what_is_started_gives_its_result_or_error_and_ends_with_its_future() -> None:
    portal, endless = Portal("test"), Endless()

    async def double(number: int) -> int:
        return 2 * number

    async def fail() -> None:
        raise ValueError("no")

    assert portal.start(double, 4).result(10) == 8
    with pytest.raises(ValueError, match="no"):
        portal.start(fail).result(10)
    waiting = portal.start(endless)
    assert endless.begun.wait(10)
    assert waiting.cancel()
    assert endless.ended.wait(10)
    left = portal.start(endless)
    portal.stop()
    assert left.cancelled()
