"""Root-mean-square normalization."""

from __future__ import annotations

import torch
from torch.nn import functional

from .dispatch import kernel

__all__ = ["add_rms_norm", "rms_norm"]


@kernel
def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Normalize `x` [..., dim] over its last dimension and scale it by `weight` (Zhang & Sennrich, 2019).

    `weight` is broadcast against `x`: [dim], or [heads, dim] for per-head norms of x [tokens, heads, dim].
    The mean is taken in float32; the result has the dtype of `x`.
    """
    return functional.rms_norm(x, x.shape[-1:], None, eps) * weight


@kernel
def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add `residual` to `x` (both [tokens, dim]); returns the normalized sum and the sum."""
    total = x + residual
    return rms_norm(total, weight, eps), total
