"""With how many threads a model's steps are fastest: measured when it is loaded."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch

from weft.kernels.attention import PagedBatch
from weft.runtime.kv.pool import KVPool

from ..model_base import Model
from .linear import ROWS
from .timing import best_seconds

__all__ = ["Forward", "choose_threads", "decodes"]

_CONTEXT = 64  # tokens
_SECONDS = 1.0


class Forward(Protocol):
    """`Model.forward` with a choice of threads."""

    def __call__(
        self,
        ids: torch.Tensor,
        new_slots: torch.Tensor,
        batch: PagedBatch,
        pool: KVPool,
        logit_rows: torch.Tensor,
        at: int,
    ) -> torch.Tensor:
        """Compute with the number of threads that stands at index `at` of the choices."""


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


def decodes(model: Model, forward: Forward) -> Callable[[int, int], float]:
    """A trial for `choose_threads`: the seconds of a step of decodes of `model` by `forward`."""
    pool = model.allocate_pool(ROWS[-1] * _CONTEXT)

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
        return best_seconds(lambda: forward(ids, slots, batch, pool, last, at))

    return trial
