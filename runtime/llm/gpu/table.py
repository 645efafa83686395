"""The page table: where the keys of live sequences lie."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence as Seq

import torch

from ..sequence import Sequence

__all__ = ["IDLE", "PageTable", "Pages"]

IDLE = 0
"""The row of what pads a batch."""


class PageTable:
    """Which row of the table belongs to which sequence, of those that were computed lately. Pure.

    What a row lacks, whoever runs a step brings: `Sequence.mirrored` says how many slots of a sequence its
    row holds.
    """

    def __init__(self, rows: int) -> None:
        """Rows for `rows` sequences; they become more when a step needs more."""
        self.height = rows + 1
        """Rows, that of what pads a batch included. When they become more, all are filled anew."""
        self._rows: OrderedDict[Sequence, int] = OrderedDict()  # in the order of their last use
        self._free = list(range(rows, IDLE, -1))

    def rows(self, sequences: Seq[Sequence]) -> list[int]:
        """The rows of a step's sequences, which are different ones.

        Those that have none get free ones, or those that have not been used for longest.
        """
        known = self._rows
        if len(sequences) >= self.height:
            self._grow(len(sequences))
        for sequence in sequences:
            if sequence in known:
                known.move_to_end(sequence)
        found = []
        for sequence in sequences:
            row = known.get(sequence)
            if row is None:
                row = known[sequence] = self._free.pop() if self._free else self._oldest()
                sequence.mirrored = 0
            found.append(row)
        return found

    def _oldest(self) -> int:
        sequence, row = self._rows.popitem(last=False)
        sequence.mirrored = 0
        return row

    def _grow(self, rows: int) -> None:
        """Make room for twice as many."""
        self._rows.clear()
        self.height = 2 * rows + 1
        self._free = list(range(2 * rows, IDLE, -1))


class Pages:
    """The rows of a page table on a device."""

    def __init__(self, height: int, width: int, device: torch.device) -> None:
        """`width`: tokens a row."""
        self.slots = torch.zeros(height, width, dtype=torch.int32, device=device)

    @property
    def width(self) -> int:
        """Tokens a row."""
        return self.slots.shape[1]

    def fit(self, height: int) -> None:
        """Have so many rows. If they were not as many, they are other memory, and empty."""
        if height != len(self.slots):
            self.slots = torch.zeros(height, self.width, dtype=torch.int32, device=self.slots.device)

    def write(self, at: torch.Tensor, slots: torch.Tensor) -> None:
        """Set entries, int32, at places that are counted through all rows."""
        self.slots.view(-1)[at.long()] = slots
