"""With how many threads a model's steps are fastest: measured when it is loaded."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable

import numpy as np
import torch

from weft.kernels.attention import PagedBatch
from weft.runtime.kv.pool import KVPool

from ..model_base import Model
from .linear import ROWS, mode_of
from .timing import best_seconds

__all__ = ["ThreadedModel", "choose_threads"]

_CONTEXT = 64  # tokens
_SECONDS = 1.0


def choose_threads(trial: Callable[[int, int], float], most: int, *, gain: float) -> list[int]:
    """For each size class of `ROWS`, the index of the number of threads that serves it: 0 or `most`.

    `trial`: the seconds of a step of so many decodes with the threads of an index. More threads are taken
    where they are `gain` times as fast.
    """
    chosen = [most] * len(ROWS)
    deadline = time.perf_counter() + _SECONDS
    for size, rows in enumerate(ROWS):
        if not most or time.perf_counter() > deadline:
            break
        chosen[size] = most if trial(rows, most) * gain < trial(rows, 0) else 0
    return chosen


class ThreadedModel(Model):
    """A model of a CPU whose steps take one thread or all, whichever serves steps of their size."""

    _threads_for: list[int]

    def forward(
        self,
        ids: torch.Tensor,
        new_slots: torch.Tensor,
        batch: PagedBatch,
        pool: KVPool,
        logit_rows: torch.Tensor,
    ) -> torch.Tensor:
        """See `Model.forward`."""
        at = self._threads_for[mode_of(len(ids))]
        return self._forward(ids, new_slots, batch, pool, logit_rows, at)

    @abstractmethod
    def _forward(
        self,
        ids: torch.Tensor,
        new_slots: torch.Tensor,
        batch: PagedBatch,
        pool: KVPool,
        logit_rows: torch.Tensor,
        at: int,
    ) -> torch.Tensor:
        """Compute with the number of threads that stands at index `at` of the choices."""

    def _choose_threads(self, most: int, *, gain: float) -> None:
        """Time steps of decodes; see `choose_threads`."""
        pool = self.allocate_pool(ROWS[-1] * _CONTEXT)

        def trial(rows: int, at: int) -> float:
            batch = PagedBatch(
                slots=np.arange(rows * _CONTEXT),
                key_counts=(_CONTEXT,) * rows,
                positions=np.full(rows, _CONTEXT - 1),
                query_counts=(1,) * rows,
            )
            ids = torch.zeros(rows, dtype=torch.int64)
            last = torch.arange(rows)
            slots = last * _CONTEXT + _CONTEXT - 1
            return best_seconds(lambda: self._forward(ids, slots, batch, pool, last, at))

        self._threads_for = choose_threads(trial, most, gain=gain)
