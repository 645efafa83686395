"""The page table on the device: where the keys of live sequences lie."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence as Seq

import torch

from ..sequence import Sequence

__all__ = ["IDLE", "PageTable"]

IDLE = 0
"""The row of what pads a batch."""


class PageTable:
    """A row of slots for each sequence that was computed lately. What it lacks, whoever runs a step brings.

    `Sequence.mirrored` says how many slots of a sequence its row holds.
    """

    def __init__(self, rows: int, width: int, device: torch.device) -> None:
        """Rows for `rows` sequences of `width` tokens at most; they become more when a step needs more."""
        self.pages = torch.zeros(rows + 1, width, dtype=torch.int32, device=device)
        self._rows: OrderedDict[Sequence, int] = OrderedDict()  # in the order of their last use
        self._free = list(range(rows, IDLE, -1))

    @property
    def width(self) -> int:
        """Tokens a row."""
        return self.pages.shape[1]

    def rows(self, sequences: Seq[Sequence]) -> list[int]:
        """The rows of a step's sequences, which are different ones.

        Those that have none get free ones, or those that have not been used for longest.
        """
        known = self._rows
        if len(sequences) >= len(self.pages):
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
        """Make room for twice as many; all rows are filled anew."""
        self._rows.clear()
        _, width = self.pages.shape
        self.pages = torch.zeros(2 * rows + 1, width, dtype=torch.int32, device=self.pages.device)
        self._free = list(range(2 * rows, IDLE, -1))
