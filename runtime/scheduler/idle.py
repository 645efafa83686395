"""Runs that hold contexts on an engine while they wait for something else, by when they lose their places."""

from __future__ import annotations

import heapq
from typing import Final

from .engines import EngineState
from .state import LiveRun

__all__ = ["IdleRuns"]

_SMALL: Final = 64  # entries that are not worth tidying

_Entry = tuple[float, int, float, EngineState, LiveRun]  # due, number, idle since


class IdleRuns:
    """Those of one kind of engine. Who is idle no longer is skipped when its turn comes."""

    def __init__(self) -> None:
        self._heap: list[_Entry] = []
        self._count = 0
        self._tidy_at = _SMALL

    def add(self, engine: EngineState, run: LiveRun, now: float) -> None:
        """A run has become idle."""
        self._count += 1
        heapq.heappush(self._heap, (now, self._count, now, engine, run))
        if len(self._heap) > self._tidy_at:
            self._heap = [entry for entry in self._heap if self._is_idle(entry)]
            heapq.heapify(self._heap)
            self._tidy_at = 2 * len(self._heap) + _SMALL

    def first(self) -> tuple[float, EngineState, LiveRun] | None:
        """The run that is due first to lose its place, when, and where."""
        while self._heap:
            due, _, _, engine, run = self._heap[0]
            if self._is_idle(self._heap[0]):
                return due, engine, run
            heapq.heappop(self._heap)
        return None

    def postpone(self, due: float) -> None:
        """The run that was due first is due later."""
        _, number, since, engine, run = self._heap[0]
        heapq.heapreplace(self._heap, (due, number, since, engine, run))

    def _is_idle(self, entry: _Entry) -> bool:
        _, _, since, engine, run = entry
        return engine.idle.get(run) == since and engine.worker.alive
