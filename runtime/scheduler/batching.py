"""Batching policies: the order in which waiting primitives leave, and which of them may leave together."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from .state import QUEUED, WAITING, LiveNode, LiveRun

__all__ = ["BATCHING", "Batching", "Fifo", "PerInvocation", "Topology"]

Heap = list[tuple[float, int, LiveNode]]
"""Primitives by some order, and by their tickets."""


class Batching(Protocol):
    """An order of waiting primitives. Those that leave it early are skipped when their turn comes."""

    mixes: bool
    """Whether a batch may hold more than what one `batch` gives."""

    def push(self, live: LiveNode) -> None:
        """Take in a primitive, which has a `rank` and a `ticket`: the number of those that came before it."""
        ...

    def peek(self) -> LiveNode | None:
        """The primitive whose turn it is."""
        ...

    def batch(self, size: int) -> list[LiveNode]:
        """That primitive and up to `size` in all to compute with it; they leave the order."""
        ...


class Fifo:
    """By rank, whoever comes: throughput before anything else ("TO" of Teola, section 7)."""

    mixes = True

    def __init__(self) -> None:
        self._heap: Heap = []

    def push(self, live: LiveNode) -> None:
        """Take in a primitive."""
        heapq.heappush(self._heap, (live.rank, live.ticket, live))

    def peek(self) -> LiveNode | None:
        """The smallest rank."""
        return _top(self._heap)

    def batch(self, size: int) -> list[LiveNode]:
        """The smallest ranks."""
        return _take(self._heap, size, lambda live: True)


class PerInvocation(Fifo):
    """Calls of different programs, or lines of a program, are never computed together ("PO" of Teola)."""

    mixes = False

    def batch(self, size: int) -> list[LiveNode]:
        """The smallest ranks, as far as they come from one line of one run."""
        first = self.peek()
        if first is None:
            return []
        return _take(
            self._heap,
            size,
            lambda live: live.run is first.run and live.node.location == first.node.location,
        )


class Topology:
    """The runs in order of their ranks, and of each run first what has the longest way before it.

    Algorithm 2 of Teola (arXiv:2407.00326, section 5.2), with the critical path in milliseconds for its
    depth: each run gives to a batch what has the longest way, all of it, and more only if no other run fills
    the batch.
    """

    mixes = True

    def __init__(self) -> None:
        self._runs: dict[LiveRun, _Bucket] = {}
        self._heap: list[tuple[float, int, _Bucket]] = []
        self._entries = 0

    def push(self, live: LiveNode) -> None:
        """Take in a primitive."""
        bucket = self._runs.get(live.run)
        if bucket is None:
            bucket = self._runs[live.run] = _Bucket(live.run)
        heapq.heappush(bucket.heap, (-live.primitive.forecast.remaining_ms, live.ticket, live))
        if live.rank < bucket.rank:
            self._enter(bucket, live.rank)

    def peek(self) -> LiveNode | None:
        """Of the run with the smallest rank, the longest way."""
        bucket = self._first()
        return None if bucket is None else _top(bucket.heap)

    def batch(self, size: int) -> list[LiveNode]:
        """The longest ways of as many runs as fill the batch, and if they do not, the next longest."""
        taken: list[LiveNode] = []
        while len(taken) < size:
            visited: list[tuple[float, _Bucket]] = []
            while len(taken) < size and (bucket := self._first()) is not None:
                heapq.heappop(self._heap)
                visited.append((bucket.rank, bucket))
                taken += bucket.longest(size - len(taken))
            for rank, bucket in visited:
                self._enter(bucket, rank)
            if not visited:
                break
        return taken

    def _enter(self, bucket: _Bucket, rank: float) -> None:
        bucket.rank = rank
        self._entries += 1
        heapq.heappush(self._heap, (rank, self._entries, bucket))

    def _first(self) -> _Bucket | None:
        """The run with the smallest rank, of those that wait for something."""
        heap = self._heap
        while heap:
            rank, _, bucket = heap[0]
            if bucket.rank == rank and _top(bucket.heap) is not None:
                return bucket
            heapq.heappop(heap)
            if bucket.rank == rank:
                bucket.rank = float("inf")
                self._runs.pop(bucket.run, None)
        return None


class _Bucket:
    """The waiting primitives of a run."""

    __slots__ = ("heap", "rank", "run")

    def __init__(self, run: LiveRun) -> None:
        self.run = run
        self.rank = float("inf")
        self.heap: Heap = []

    def longest(self, size: int) -> list[LiveNode]:
        """Take out what has the longest way before it."""
        way = self.heap[0][2].primitive.forecast.remaining_ms
        return _take(self.heap, size, lambda live: live.primitive.forecast.remaining_ms == way)


def _top(heap: Heap) -> LiveNode | None:
    """The first entry that still waits."""
    while heap:
        _, ticket, live = heap[0]
        if live.phase is QUEUED and live.ticket == ticket:
            return live
        heapq.heappop(heap)
    return None


def _take(heap: Heap, size: int, fits: Callable[[LiveNode], bool]) -> list[LiveNode]:
    """Take out up to `size` entries that still wait, until one does not fit."""
    taken: list[LiveNode] = []
    while len(taken) < size and (live := _top(heap)) is not None and fits(live):
        heapq.heappop(heap)
        live.phase = WAITING
        taken.append(live)
    return taken


BATCHING: Final[Mapping[str, Callable[[], Batching]]] = {
    "fifo": Fifo,
    "per_invocation": PerInvocation,
    "topology": Topology,
}
