"""A model as the engine sees it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch

from weft.kernels.attention import PagedBatch
from weft.runtime.kv.pool import KVPool

from .config import ModelShape

__all__ = ["Model"]


class Model(ABC):
    """A causal language model over a paged KV pool."""

    def __init__(self, config: ModelShape, *, name: str, dtype: torch.dtype, device: torch.device) -> None:
        self.config = config
        self.name = name
        self.dtype = dtype
        self.device = device

    @property
    def numbers(self) -> str:
        """What its weights are kept and its steps computed in."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def ranks(self) -> int:
        """The processes that share the model, each with some of its heads."""
        return 1

    @property
    def kv_bytes_per_token(self) -> int:
        """Memory of one token's keys and values, on each rank."""
        c = self.config
        return KVPool.bytes_per_slot(
            layers=c.layers, kv_heads=c.kv_heads, head_dim=c.head_dim, dtype=self.dtype
        )

    def allocate_pool(self, slots: int) -> KVPool:
        """A KV pool of this model's shape."""
        c = self.config
        return KVPool.allocate(
            layers=c.layers,
            slots=slots,
            kv_heads=c.kv_heads,
            head_dim=c.head_dim,
            dtype=self.dtype,
            device=self.device,
        )

    def free_memory(self) -> int:
        """Bytes that are free on the device, which must be CUDA's; of several ranks' devices the least.

        What loading has left behind in torch's allocator is given back first.
        """
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info(self.device)[0])

    def check(self) -> None:
        """Raise ParallelError if a process that shares the model is gone: what it computed last is wrong."""
        return

    def probe(self) -> None:
        """Raise DeviceError if the device computes nothing any more."""
        return

    def on_failure(self, listener: Callable[[], None]) -> None:
        """Call `listener`, on some thread, when `check` begins to raise."""
        return

    def close(self) -> None:
        """End the processes that share the model, if there are any; its engines must have been closed."""
        return

    @abstractmethod
    def forward(
        self,
        ids: torch.Tensor,
        new_slots: torch.Tensor,
        batch: PagedBatch,
        pool: KVPool,
        logit_rows: torch.Tensor,
    ) -> torch.Tensor:
        """Compute the tokens `ids` (int64 [tokens]) at `batch.positions`, storing their KV in `new_slots`.

        Returns the logits that follow the tokens `logit_rows` (int64 [rows], indices into `ids`) as
        float32 [rows, vocab]; all of it on this model's device. How keys and values lie in a slot is each
        model's own affair.
        """
