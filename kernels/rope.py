"""Rotary position embedding."""

from __future__ import annotations

import torch

__all__ = ["apply_rotary"]


def apply_rotary(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate the pairs (x[i], x[i + head_dim/2]) of each head (Su et al., "RoFormer", 2021).

    `x` is [tokens, heads, head_dim]; `cos` and `sin` are float32 [tokens, 1, head_dim] with the angles of
    the first half repeated in the second, and with the first half of `sin` negated. Computed in float32;
    returns the dtype of `x`.
    """
    swapped = x.roll(x.shape[-1] // 2, dims=-1)
    return torch.addcmul(x * cos, swapped, sin).to(x.dtype)
