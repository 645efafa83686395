"""Timers of a machine that has no clock of its own."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Generic, TypeVar

__all__ = ["Timers"]

T = TypeVar("T")


class Timers(Generic[T]):
    """Things to come, in the order of their times."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, T]] = []
        self._count = 0
        self._announced = float("inf")

    def set(self, time: float, what: T) -> None:
        """`what` comes due at `time`."""
        self._count += 1
        heapq.heappush(self._heap, (time, self._count, what))

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
