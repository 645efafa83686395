"""Allocation of slots in runs: transfers between memories are fast where their slots are consecutive."""

from __future__ import annotations

import bisect
import itertools

import numpy as np

from .radix import Tokens

__all__ = ["RunAllocator", "runs"]


class RunAllocator:
    """The free slots out of `range(total)` as sorted runs; neighbours become one run again when released."""

    def __init__(self, total: int) -> None:
        if total < 1:
            raise ValueError(f"a pool needs at least 1 slot, not {total}")
        self.total = total
        self.free = total
        """How many slots are free."""
        self._starts = [0]
        self._ends = [total]

    def allocate(self, count: int) -> Tokens:
        """Take `count` slots: the first run that is long enough, or else the first runs.

        Raises `MemoryError` if fewer are free; nothing is taken then.
        """
        if count > self.free:
            raise MemoryError(f"{count} host slots asked for, {self.free} of {self.total} are free")
        whole = next((at for at, (a, b) in enumerate(self._runs()) if b - a >= count), None)
        taken = [np.empty(0, dtype=np.int64)]
        self.free -= count
        while count:
            at = whole or 0
            start = self._starts[at]
            end = min(self._ends[at], start + count)
            taken.append(np.arange(start, end))
            count -= end - start
            if end == self._ends[at]:
                del self._starts[at], self._ends[at]
            else:
                self._starts[at] = end
        return np.concatenate(taken)

    def release(self, slots: Tokens) -> None:
        """Give back slots; each must be in use, and none may come twice."""
        for start, count in runs(np.sort(slots)):
            self._release(start, start + count)

    def free_slots(self) -> Tokens:
        """The free slots, sorted."""
        return np.concatenate([np.empty(0, dtype=np.int64), *(np.arange(a, b) for a, b in self._runs())])

    def _runs(self) -> zip[tuple[int, int]]:
        return zip(self._starts, self._ends, strict=True)

    def _release(self, start: int, end: int) -> None:
        at = bisect.bisect_left(self._starts, start)
        if (at and self._ends[at - 1] > start) or (at < len(self._starts) and self._starts[at] < end):
            raise ValueError(f"release of the slots {start} to {end - 1}, of which some are free")
        self.free += end - start
        if at < len(self._starts) and self._starts[at] == end:
            end = self._ends[at]
            del self._starts[at], self._ends[at]
        if at and self._ends[at - 1] == start:
            self._ends[at - 1] = end
        else:
            self._starts.insert(at, start)
            self._ends.insert(at, end)


def runs(slots: Tokens) -> list[tuple[int, int]]:
    """The maximal runs of consecutive numbers in `slots`, in their order: the first slot and how many."""
    if not len(slots):
        return []
    cuts = np.flatnonzero(np.diff(slots) != 1) + 1
    bounds = [0, *cuts.tolist(), len(slots)]
    return [(int(slots[a]), b - a) for a, b in itertools.pairwise(bounds)]
