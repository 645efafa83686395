"""Event loops in threads of their own, for callers that have none."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from functools import partial
from typing import Any, Final, ParamSpec, TypeVar

__all__ = ["NETWORK", "PROGRAMS", "Portal", "shared"]

P = ParamSpec("P")
T = TypeVar("T")


class Portal:
    """An asyncio loop in a daemon thread, started when first needed; a forked child starts its own."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        os.register_at_fork(after_in_child=self._forget)
        atexit.register(self.stop)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The running loop."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._run, args=(self._loop,), name=self._name, daemon=True
                )
                self._thread.start()
            return self._loop

    @property
    def is_here(self) -> bool:
        """Whether the caller runs on this loop, and so must not wait for it."""
        return self._thread is threading.current_thread()

    def start(
        self, function: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        """Run an async function on the loop; cancelling the future cancels it.

        The coroutine is made on the loop, and is a task at once: neither Ctrl-C nor the loop's end can come
        between its making and its start.
        """
        outcome: Future[T] = Future()
        self._start(outcome, partial(function, *args, **kwargs))
        return outcome

    def call(self, function: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run an async function on the loop and wait for it; Ctrl-C cancels it."""
        outcome: Future[T] = Future()
        try:
            self._start(outcome, partial(function, *args, **kwargs))
            return outcome.result()
        except KeyboardInterrupt:
            outcome.cancel()
            raise

    def _start(self, outcome: Future[T], make: Callable[[], Coroutine[Any, Any, T]]) -> None:
        loop = self.loop

        def begin() -> None:
            if not outcome.cancelled():
                _tie(loop.create_task(make()), outcome)

        loop.call_soon_threadsafe(begin)

    def stop(self) -> None:
        """End the loop, cancelling what runs on it."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None:
            return
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        while _interrupted(loop):
            pass  # by a program that exits: its caller is told, and others go on
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._loop = self._thread = None


def _interrupted(loop: asyncio.AbstractEventLoop) -> bool:
    """Run the loop until it is stopped, or a task raises what ends loops."""
    try:
        loop.run_forever()
    except (SystemExit, KeyboardInterrupt):
        return True
    return False


_held: Final[set[asyncio.Task[Any]]] = set()
"""Tasks that are shared: event loops hold theirs weakly."""


def shared(task: asyncio.Task[T]) -> Future[T]:
    """What stands for a task in other threads; cancelling one of them cancels the other."""
    outcome: Future[T] = Future()
    _tie(task, outcome)
    _held.add(task)
    task.add_done_callback(_held.discard)
    return outcome


def _tie(task: asyncio.Task[T], outcome: Future[T]) -> None:
    task.add_done_callback(partial(_pass_on, outcome))
    outcome.add_done_callback(partial(_cancel_too, task.get_loop(), task))


def _pass_on(outcome: Future[T], task: asyncio.Task[T]) -> None:
    """A task has ended: so has what stands for it in other threads, unless that was cancelled."""
    with suppress(InvalidStateError):
        if task.cancelled():
            outcome.cancel()
        elif (error := task.exception()) is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(task.result())


def _cancel_too(loop: asyncio.AbstractEventLoop, task: asyncio.Task[T], outcome: Future[T]) -> None:
    if outcome.cancelled():
        with suppress(RuntimeError):  # the loop is closed, and the task with it
            loop.call_soon_threadsafe(task.cancel)


NETWORK: Final = Portal("weft-client")
"""Where the channels to servers live."""
PROGRAMS: Final = Portal("weft-programs")
"""Where async programs and tools run for callers without a loop."""
