"""Timers of a machine that has no clock of its own."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeVar

__all__ = ["Timers"]

T = TypeVar("T")

_SMALL: Final = 64  # entries that are not worth tidying


class Timers(Generic[T]):
    """Things to come, in the order of their times. Those that do not matter any more may be left out."""

    def __init__(self, matters: Callable[[T], bool]) -> None:
        self._matters = matters
        self._heap: list[tuple[float, int, T]] = []
        self._count = 0
        self._announced = float("inf")
        self._tidy_at = _SMALL

    def __len__(self) -> int:
        return len(self._heap)

    def set(self, time: float, what: T) -> None:
        """`what` comes due at `time`."""
        self._count += 1
        heapq.heappush(self._heap, (time, self._count, what))
        if len(self._heap) > self._tidy_at:
            self._heap = [entry for entry in self._heap if self._matters(entry[2])]
            heapq.heapify(self._heap)
            self._tidy_at = 2 * len(self._heap) + _SMALL

    def due(self, now: float) -> Iterator[T]:
        """Take out what has come due, earliest first; the next time will be announced anew."""
        self._announced = float("inf")
        while self._heap and self._heap[0][0] <= now:
            yield heapq.heappop(self._heap)[2]

    def announcement(self) -> float | None:
        """The next time, if it is earlier than any announced before."""
        if not self._heap or self._heap[0][0] >= self._announced:
            return None
        self._announced = self._heap[0][0]
        return self._announced
