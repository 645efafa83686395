"""Whether this CPU computes in bfloat16 faster than in float32: measured, for many merely emulate it.

Small models stay in float32. Their weights come from the caches, so halving them saves little, and the path
of float32 has fewer operations; and a noisy measurement must not decide what the bundled model answers.
"""

from __future__ import annotations

from functools import partial

import torch
from torch.nn.functional import linear

from ..config import ModelConfig
from .timing import best_seconds

__all__ = ["bfloat16_pays"]

_ROWS = (1, 64)  # a decode, and a chunk of a prompt
_WORTHWHILE = 1.5  # how much faster it must be: the path of float32 has fewer operations
_SMALL = 2**22  # elements of a layer's largest weight, those of all experts being one


def bfloat16_pays(config: ModelConfig) -> bool:
    """Time the largest product of a layer in both types, if its weights are large."""
    inner, count = config.intermediate_size, 1
    if config.experts is not None and not config.has_dense_layers:
        inner, count = config.experts.intermediate_size, config.experts.count
    shape = (2 * inner, config.hidden_size)
    if count * shape[0] * shape[1] < _SMALL:
        return False
    exact, half = (_seconds(shape, dtype) for dtype in (torch.float32, torch.bfloat16))
    return exact > _WORTHWHILE * half


def _seconds(shape: tuple[int, int], dtype: torch.dtype) -> float:
    weight = torch.zeros(shape, dtype=dtype)
    inputs = [torch.zeros(rows, shape[1], dtype=dtype) for rows in _ROWS]
    return sum(best_seconds(partial(linear, x, weight)) for x in inputs)
