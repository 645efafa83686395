"""The memory behind the KV slots."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["KVPool"]


@dataclass(frozen=True, slots=True)
class KVPool:
    """Keys and values of all layers; a slot is one index of the second dimension."""

    keys: torch.Tensor  # [layers, slots, kv_heads, head_dim]
    values: torch.Tensor  # [layers, slots, kv_heads, head_dim]

    @classmethod
    def allocate(
        cls,
        *,
        layers: int,
        slots: int,
        kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> KVPool:
        """Reserve zeroed memory for `slots` slots; a torch out-of-memory error passes through."""
        shape = (layers, slots, kv_heads, head_dim)
        return cls(
            torch.zeros(shape, dtype=dtype, device=device), torch.zeros(shape, dtype=dtype, device=device)
        )

    @property
    def slots(self) -> int:
        """The number of slots."""
        return self.keys.shape[1]

    def read(self, slots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Copies of the keys and values of some slots (int64), each [layers, len(slots), kv_heads, head_dim].

        They are in the CPU's memory.
        """
        at = slots.to(self.keys.device)
        return self.keys.index_select(1, at).cpu(), self.values.index_select(1, at).cpu()

    def write(self, slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Store keys and values, as `read` gives them, in some slots (int64)."""
        at = slots.to(self.keys.device)
        self.keys.index_copy_(1, at, keys.to(self.keys.device))
        self.values.index_copy_(1, at, values.to(self.values.device))

    @staticmethod
    def bytes_per_slot(*, layers: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> int:
        """The memory of one token's keys and values in all layers."""
        return 2 * layers * kv_heads * head_dim * dtype.itemsize
