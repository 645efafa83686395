"""Batching policies: in which order primitives that wait for an engine are handed out."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Protocol

from .state import LiveNode, Phase

__all__ = ["BATCHING", "Batching", "Fifo", "ReadyQueue"]

Rank = tuple[float, ...]


class Batching(Protocol):
    """The order of a queue."""

    def rank(self, live: LiveNode, arrival: int) -> Rank:
        """Where the node stands; the smallest rank goes first. `arrival` counts all that ever queued."""
        ...


class Fifo:
    """First come, first served, among runs of the same priority."""

    def rank(self, live: LiveNode, arrival: int) -> Rank:
        """Priority, then arrival."""
        return (-live.run.priority, arrival)


BATCHING: Final[Mapping[str, Callable[[], Batching]]] = {"fifo": Fifo}


class ReadyQueue:
    """The primitives that are ready for one kind of engine. Those that leave it early are skipped lazily."""

    def __init__(self, batching: Batching) -> None:
        self._batching = batching
        self._heap: list[tuple[Rank, int, LiveNode]] = []
        self._arrivals = 0

    def push(self, live: LiveNode) -> None:
        """Queue a node."""
        live.phase = Phase.QUEUED
        self._arrivals += 1
        heapq.heappush(self._heap, (self._batching.rank(live, self._arrivals), self._arrivals, live))

    def peek(self) -> LiveNode | None:
        """The node whose turn it is."""
        while self._heap and self._heap[0][2].phase is not Phase.QUEUED:
            heapq.heappop(self._heap)
        return self._heap[0][2] if self._heap else None

    def pop(self) -> LiveNode:
        """Take the node that `peek` shows."""
        return heapq.heappop(self._heap)[2]

    def __iter__(self) -> Iterator[LiveNode]:
        entries = sorted(self._heap, key=lambda entry: entry[:2])
        return (live for _, _, live in entries if live.phase is Phase.QUEUED)
