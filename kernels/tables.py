"""What the attention kernels are told about the keys of a batch; all tensors lie on the pool's device.

None of it is read by the host, so a CUDA graph that was captured over these tensors stays valid while their
contents change.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["KVTable", "Rotary"]


@dataclass(frozen=True, slots=True)
class KVTable:
    """Where the keys and values of sequences lie: one row a sequence.

    The key at causal position n of a row lies in slot `pages[row, n // page_size] * page_size +
    n % page_size`.
    """

    pages: torch.Tensor  # int32 [rows, max_pages]
    page_size: int = 1  # slots; a power of 2
    positions: torch.Tensor | None = None
    """Rotary position of each key, int32 [rows, max_pages * page_size]; None: its causal position."""

    @property
    def capacity(self) -> int:
        """The most keys that a row can hold."""
        return self.pages.shape[1] * self.page_size

    def slots(self, row: int, keys: int) -> torch.Tensor:
        """The slots of the first `keys` keys of a row: int64 [keys]."""
        n = torch.arange(keys, device=self.pages.device)
        return self.pages[row, n // self.page_size].long() * self.page_size + n % self.page_size

    def rotary_positions(self, row: int, keys: int) -> torch.Tensor:
        """The rotary positions of the first `keys` keys of a row: int64 [keys]."""
        if self.positions is None:
            return torch.arange(keys, device=self.pages.device)
        return self.positions[row, :keys].long()


@dataclass(frozen=True, slots=True)
class Rotary:
    """Rotation tables, built in float64 and stored as float32 [positions, head_dim / 2]."""

    cos: torch.Tensor
    sin: torch.Tensor
