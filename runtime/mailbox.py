"""From an engine's thread to the event loop, with one wake-up for all that gathers meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

__all__ = ["Mailbox"]

Item = TypeVar("Item")


class Mailbox(Generic[Item]):
    """Items posted by any thread; `receive` gets them on the loop, in order, as many at once as there are."""

    def __init__(self, loop: asyncio.AbstractEventLoop, receive: Callable[[Sequence[Item]], None]) -> None:
        self._loop = loop
        self._receive = receive
        self._lock = threading.Lock()
        self._items: list[Item] = []

    def post(self, item: Item) -> None:
        """Add an item; it is dropped once the loop is closed."""
        with self._lock:
            self._items.append(item)
            if len(self._items) > 1 or self._loop.is_closed():
                return
        self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        with self._lock:
            items, self._items = self._items, []
        self._receive(items)
