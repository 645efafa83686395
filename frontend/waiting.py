"""How code that is not async waits for what runs on the loop of programs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Coroutine, Generator
from typing import Any, Final, TypeVar

from .client.portal import PROGRAMS
from .errors import TraceError
from .location import located

__all__ = ["expect_no_loop", "iterate", "wait"]

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
    try:
        while (item := wait(_next(items))) is not _END:
            yield item
    finally:
        wait(items.aclose())


def expect_no_loop() -> None:
    """Raises TraceError on the loop that sync callers share: waiting there would stop what is waited for."""
    if PROGRAMS.is_here:
        raise TraceError(
            located(
                "an async program cannot wait for another run; call the program to make it part of this "
                "one, or await its ainvoke(), astream() or abatch()"
            )
        )


async def _next(items: AsyncGenerator[Any]) -> Any:
    return await anext(items, _END)
