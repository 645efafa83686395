"""How code that is not async waits for what runs on the loop of programs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import Any, Final, ParamSpec, TypeVar

from .client.portal import PROGRAMS
from .errors import TraceError
from .location import located

__all__ = ["expect_no_loop", "iterate", "wait"]

P = ParamSpec("P")
T = TypeVar("T")

_END: Final = object()


def wait(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, run on the loop that sync callers share."""
    try:
        expect_no_loop()
    except TraceError:
        coroutine.close()
        raise
    return PROGRAMS.call(lambda: coroutine)


def iterate(items: AsyncGenerator[T]) -> Generator[T]:
    """What an async generator gives, run on the loop that sync callers share; they are closed together."""
    turn = asyncio.Lock()
    try:
        while (item := _called(_next, items, turn)) is not _END:
            yield item
    finally:
        _called(_close, items, turn)


def _called(function: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """As `wait`, with a coroutine that Ctrl-C cannot keep from its start."""
    expect_no_loop()
    return PROGRAMS.call(function, *args, **kwargs)


def expect_no_loop() -> None:
    """Raises TraceError on the loop that sync callers share: waiting there would stop what is waited for."""
    if PROGRAMS.is_here:
        raise TraceError(
            located(
                "an async program cannot wait for another run; call the program to make it part of this "
                "one, or await its ainvoke(), astream() or abatch()"
            )
        )


async def _next(items: AsyncGenerator[Any], turn: asyncio.Lock) -> Any:
    async with turn:
        return await anext(items, _END)


async def _close(items: AsyncGenerator[Any], turn: asyncio.Lock) -> None:
    """Close a generator once it rests: Ctrl-C cancels its turn, but does not wait for what that takes."""
    async with turn:
        await items.aclose()
