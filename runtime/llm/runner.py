"""Runs the model over chunks of sequences: from planned work to logits."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import Protocol

import numpy as np
import torch

from weft.kernels.attention import PagedBatch
from weft.runtime.kv.pool import KVPool

from .model_base import Model
from .sequence import Sequence

__all__ = ["ModelRunner", "Runner", "Work"]

Work = tuple[Sequence, int]
"""The next so many tokens of a sequence; their slots are allocated."""


class Runner(Protocol):
    """Whoever runs a model, and has its KV pool."""

    @property
    def model(self) -> Model:
        """The model."""

    @property
    def pool(self) -> KVPool:
        """Its pool."""

    @property
    def shares_prefixes(self) -> bool:
        """Whether a step reads keys that several decodes share once, where that pays."""

    def run(self, work: Seq[Work], logit_rows: Seq[int]) -> torch.Tensor:
        """Compute all of `work` in one forward pass, storing its KV.

        Returns float32 logits [len(logit_rows), vocab] after the given tokens, which are counted through
        `work`. The next step may overwrite them.
        """

    def close(self) -> None:
        """Give back what was captured for steps; none may follow."""


class ModelRunner:
    """A model and its KV pool."""

    shares_prefixes = False

    def __init__(self, model: Model, slots: int) -> None:
        self.model = model
        self.pool: KVPool = model.allocate_pool(slots)

    def run(self, work: Seq[Work], logit_rows: Seq[int]) -> torch.Tensor:
        """See `Runner.run`."""
        spans = [(item, item.computed, item.computed + count) for item, count in work]
        batch = PagedBatch(
            slots=np.concatenate([item.slots[:end] for item, _, end in spans]),
            key_counts=tuple(end for _, _, end in spans),
            positions=np.concatenate([np.arange(start, end) for _, start, end in spans]),
            query_counts=tuple(count for _, count in work),
        )
        ids = np.concatenate([item.tokens[start:end] for item, start, end in spans])
        new_slots = np.concatenate([item.slots[start:end] for item, start, end in spans])
        rows = torch.tensor(logit_rows, dtype=torch.int64)
        device = self.model.device
        return self.model.forward(
            torch.from_numpy(ids).to(device),
            torch.from_numpy(new_slots).to(device),
            batch,
            self.pool,
            rows.to(device),
        )

    def close(self) -> None:
        """See `Runner.close`; nothing was captured."""
