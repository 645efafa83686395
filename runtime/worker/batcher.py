"""Dynamic batching: what is queued while a batch is being computed makes up the next one."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

from .engines.base import Timing

__all__ = ["Batched", "Batcher"]

_log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batched(NamedTuple, Generic[Result]):
    """One item's result, and how it was computed."""

    result: Result
    timing: Timing


class _Entry(NamedTuple, Generic[Item, Result]):
    item: Item
    future: asyncio.Future[Batched[Result]]
    submitted: float  # time.monotonic()


class Batcher(Generic[Item, Result]):
    """Computes items in batches of at most `limit`, one batch at a time, in a thread of its own.

    `compute` takes the items of a batch and returns a result for each, in order. When it raises for several,
    each is computed alone, so that only the bad ones fail.
    """

    def __init__(
        self, compute: Callable[[Sequence[Item]], Sequence[Result]], *, limit: int, name: str
    ) -> None:
        self._compute = compute
        self._limit = limit
        self._name = name
        self._queue: asyncio.Queue[_Entry[Item, Result]] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"weft-{name}")
        self._consumer: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to compute."""
        self._consumer = asyncio.create_task(self._consume(), name=f"batcher of {self._name}")

    async def stop(self) -> None:
        """Cancel what is queued or being computed."""
        if self._consumer is not None:
            self._consumer.cancel()
            await asyncio.wait([self._consumer])
        while not self._queue.empty():
            self._queue.get_nowait().future.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def submit(self, item: Item) -> Batched[Result]:
        """The item's result. Raises what `compute` raised for it."""
        future: asyncio.Future[Batched[Result]] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(_Entry(item, future, time.monotonic()))
        return await future

    async def _consume(self) -> None:
        while True:
            batch = [await self._queue.get()]
            while len(batch) < self._limit and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            batch = [entry for entry in batch if not entry.future.done()]
            try:
                if batch:
                    await self._serve(batch)
            finally:
                for entry in batch:
                    entry.future.cancel()  # of those that have no result: the batcher stops

    async def _serve(self, batch: Sequence[_Entry[Item, Result]]) -> None:
        started = time.monotonic()
        try:
            results = await self._run([entry.item for entry in batch])
        except Exception as error:
            await self._refuse(batch, error)
            return
        compute = time.monotonic() - started
        for entry, result in zip(batch, results, strict=True):
            timing = Timing(queued=started - entry.submitted, compute=compute, batch=len(batch))
            _settle(entry.future, Batched(result, timing))

    async def _refuse(self, batch: Sequence[_Entry[Item, Result]], error: Exception) -> None:
        """Pass on the error of a batch: of one item to its owner, of several after trying each alone."""
        if len(batch) == 1:
            if not batch[0].future.done():
                batch[0].future.set_exception(error)
            return
        _log.info("a batch of %d in %s failed (%s); each is tried alone", len(batch), self._name, error)
        for entry in batch:
            if not entry.future.done():
                await self._serve([entry])

    async def _run(self, items: Sequence[Item]) -> Sequence[Result]:
        loop = asyncio.get_running_loop()
        results = await loop.run_in_executor(self._thread, self._compute, items)
        if len(results) != len(items):
            raise RuntimeError(f"{self._name} gave {len(results)} results for a batch of {len(items)}")
        return results


def _settle(future: asyncio.Future[Batched[Result]], value: Batched[Result]) -> None:
    if not future.done():
        future.set_result(value)
