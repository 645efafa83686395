"""Allocation of KV slots: which rows of the pool are free."""

from __future__ import annotations

import numpy as np

from .radix import Tokens

__all__ = ["SlotAllocator"]


class SlotAllocator:
    """A stack of free slot indices out of `range(total)`."""

    def __init__(self, total: int) -> None:
        if total < 1:
            raise ValueError(f"a pool needs at least 1 slot, not {total}")
        self.total = total
        self._stack: Tokens = np.arange(total - 1, -1, -1, dtype=np.int64)
        self._free = total

    @property
    def free(self) -> int:
        """How many slots are free."""
        return self._free

    def allocate(self, count: int) -> Tokens:
        """Take `count` slots, in ascending order as long as none has been released.

        Raises `MemoryError` if fewer are free; nothing is taken then.
        """
        if count > self._free:
            raise MemoryError(f"{count} KV slots asked for, {self._free} of {self.total} are free")
        taken = self._stack[self._free - count : self._free][::-1].copy()
        self._free -= count
        return taken

    def release(self, slots: Tokens) -> None:
        """Give back slots; each must be in use, and none may come twice."""
        if self._free + len(slots) > self.total:
            raise ValueError(f"release of {len(slots)} slots with {self._free} of {self.total} free already")
        self._stack[self._free : self._free + len(slots)] = slots[::-1]
        self._free += len(slots)

    def free_slots(self) -> Tokens:
        """The free slots, in no particular order."""
        return self._stack[: self._free].copy()
