"""Models of the other engines: one batch after another, and tools that take their time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from .clock import Alarm, Clock
from .profiles import BatchProfile

__all__ = ["BatchModel", "Call", "DelayModel"]


@dataclass(eq=False)
class Call:
    """A task of such an engine."""

    done: Callable[[Call], None]
    items: int = 1  # texts to embed, pairs to score, queries
    ms: float = 0.0  # of a tool
    started: float = -1.0
    batch: int = 1  # tasks computed in the same call
    alarm: Alarm | None = None


class BatchModel:
    """What is queued while a batch is computed makes up the next one, up to the engine's limit of tasks."""

    def __init__(self, profile: BatchProfile, clock: Clock) -> None:
        self.profile = profile
        self.busy_s = 0.0
        self._clock = clock
        self._queue: deque[Call] = deque()
        self._computing: list[Call] = []
        self._alarm: Alarm | None = None

    def submit(self, call: Call) -> None:
        """Queue a task."""
        self._queue.append(call)
        if self._alarm is None:
            self._alarm = self._clock.at(self._clock.now, self._begin)  # after all that comes with it

    def cancel(self, call: Call) -> None:
        """Remove a task that is not being computed; of one that is, nobody hears again."""
        if call in self._queue:
            self._queue.remove(call)
        elif call in self._computing:
            self._computing.remove(call)

    def _begin(self) -> None:
        self._alarm = None
        while self._queue and len(self._computing) < self.profile.capacity:
            self._computing.append(self._queue.popleft())
        if not self._computing:
            return
        for call in self._computing:
            call.started, call.batch = self._clock.now, len(self._computing)
        items = sum(call.items for call in self._computing)
        seconds = (self.profile.call_ms + self.profile.item_ms * items) / 1e3
        self.busy_s += seconds
        self._alarm = self._clock.after(seconds, self._end)

    def _end(self) -> None:
        computed, self._computing = self._computing, []
        self._begin()
        for call in computed:
            call.done(call)


class DelayModel:
    """Tools: any number at once, each as long as it takes."""

    def __init__(self, clock: Clock) -> None:
        self.busy_s = 0.0
        self._clock = clock

    def submit(self, call: Call) -> None:
        """Begin at once."""
        call.started = self._clock.now
        call.alarm = self._clock.after(call.ms / 1e3, lambda: call.done(call))

    def cancel(self, call: Call) -> None:
        """End it unheard."""
        if call.alarm is not None:
            call.alarm.call_off()
