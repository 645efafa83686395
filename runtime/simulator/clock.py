"""A virtual clock: what is to happen, in the order of its times."""

from __future__ import annotations

import heapq
from collections.abc import Callable

__all__ = ["Alarm", "Clock"]


class Alarm:
    """Something to come, which may be called off."""

    __slots__ = ("action",)

    def __init__(self, action: Callable[[], object]) -> None:
        self.action: Callable[[], object] | None = action

    def call_off(self) -> None:
        """It will not happen."""
        self.action = None


class Clock:
    """Time that passes only from one event to the next."""

    def __init__(self) -> None:
        self.now = 0.0
        """Seconds."""
        self._coming: list[tuple[float, int, Alarm]] = []
        self._set = 0

    def at(self, time: float, action: Callable[[], object]) -> Alarm:
        """Let something happen at `time`, after what was set for that time before."""
        self._set += 1
        alarm = Alarm(action)
        heapq.heappush(self._coming, (time, self._set, alarm))
        return alarm

    def after(self, seconds: float, action: Callable[[], object]) -> Alarm:
        """Let something happen in so many seconds."""
        return self.at(self.now + seconds, action)

    def run(self, until: float = float("inf")) -> bool:
        """Let things happen until nothing is left or the time is over; whether nothing is left."""
        while self._coming:
            time, _, alarm = self._coming[0]
            if time > until:
                self.now = until
                return False
            heapq.heappop(self._coming)
            if alarm.action is not None:
                self.now = max(self.now, time)
                alarm.action()
        return True
