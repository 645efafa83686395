"""Work that must not hold up an event loop: it is done in threads, or on another loop."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

from .mailbox import Mailbox
from .threads import Threads

__all__ = ["InThreads", "OnLoop"]

T = TypeVar("T")


class _Answer(NamedTuple):
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None


class InThreads:
    """Has functions called in threads. Belongs to the loop that runs when it is made."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._loop = asyncio.get_running_loop()
        self._answers: Mailbox[_Answer] = Mailbox(self._loop, _settle)

    async def call(self, function: Callable[[], T]) -> T:
        """What a function gives or raises. When cancelled, nobody hears of it, but it runs on."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._threads.run(partial(self._perform, function, future))
        return await future

    def _perform(self, function: Callable[[], T], future: asyncio.Future[T]) -> None:
        if future.cancelled():
            return
        try:
            answer = _Answer(future, function())
        except BaseException as error:
            answer = _Answer(future, error=error)
        self._answers.post(answer)


class OnLoop:
    """Has coroutines run on the loop `there`. Belongs to the loop that runs when it is made.

    What gathers for either loop meanwhile wakes it once.
    """

    def __init__(self, there: asyncio.AbstractEventLoop) -> None:
        self._here = asyncio.get_running_loop()
        self._there = there
        self._calls: Mailbox[_Call[Any]] = Mailbox(there, self._begin)
        self._answers: Mailbox[_Answer] = Mailbox(self._here, _settle)

    async def run(self, make: Callable[[], Coroutine[Any, Any, T]], context: contextvars.Context) -> T:
        """What a coroutine gives or raises; when cancelled, it is cancelled.

        Raises RuntimeError if the loop has been closed.
        """
        if self._there.is_closed():
            raise RuntimeError("the event loop that it would run on has been closed")
        future: asyncio.Future[T] = self._here.create_future()
        call = _Call(make, context, future)
        self._calls.post(call)
        try:
            return await future
        except asyncio.CancelledError:
            with suppress(RuntimeError):  # the loop has been closed, and ended it
                self._there.call_soon_threadsafe(call.cancel)
            raise

    def _begin(self, calls: Sequence[_Call[Any]]) -> None:
        for call in calls:
            if not call.future.cancelled():
                call.task = self._there.create_task(call.make(), context=call.context)
                call.task.add_done_callback(partial(self._end, call.future))

    def _end(self, future: asyncio.Future[Any], task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            answer = _Answer(future, error=asyncio.CancelledError())
        elif (error := task.exception()) is not None:
            answer = _Answer(future, error=error)
        else:
            answer = _Answer(future, task.result())
        self._answers.post(answer)


class _Call(Generic[T]):
    def __init__(
        self,
        make: Callable[[], Coroutine[Any, Any, T]],
        context: contextvars.Context,
        future: asyncio.Future[T],
    ) -> None:
        self.make = make
        self.context = context
        self.future = future
        self.task: asyncio.Task[T] | None = None

    def cancel(self) -> None:
        """Stop it; on the loop that runs it."""
        if self.task is not None:
            self.task.cancel()


def _settle(answers: Sequence[_Answer]) -> None:
    for future, result, error in answers:
        if future.done():
            continue
        if isinstance(error, asyncio.CancelledError):
            future.cancel()
        elif error is None:
            future.set_result(result)
        elif isinstance(error, Exception) and not isinstance(error, StopIteration):
            future.set_exception(error)
        else:  # what would end a task or a loop that awaits it is an error like any other
            future.set_exception(RuntimeError(f"{type(error).__name__}: {error}"))
