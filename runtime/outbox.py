"""What leaves over a stream: everything that has gathered, as one message."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

__all__ = ["Outbox"]

Item = TypeVar("Item")


class Outbox(Generic[Item]):
    """Items that one task takes, as many at once as there are. Belongs to one event loop.

    What is put in the same turn of the loop is taken together, and so is what comes up while a message
    is being written. Items that are not urgent wait for others.
    """

    def __init__(self) -> None:
        self._items: list[Item] = []
        self._due = False
        self._closed = False
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.Handle | None = None
        self._due_at = 0.0  # of the timer, which under uvloop may be a handle that does not say

    def put(self, item: Item, *, within_s: float = 0.0) -> None:
        """Add an item, which is to leave within so many seconds: at once, or with the next that is urgent."""
        self._items.append(item)
        if not within_s:
            self._wake()
        elif not self._due:
            self._wake_within(within_s)

    def close(self) -> None:
        """Nothing follows what is there."""
        self._closed = True
        self._wake()

    async def take(self) -> list[Item]:
        """All items, as soon as one is due; none once it is closed and all have been taken."""
        if not (self._due or self._closed):
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        items, self._items, self._due = self._items, [], False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return items

    def _wake_within(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        when = loop.time() + seconds
        if self._timer is not None:
            if self._due_at <= when:
                return
            self._timer.cancel()
        self._timer, self._due_at = loop.call_at(when, self._wake), when

    def _wake(self) -> None:
        self._due = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
