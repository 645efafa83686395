"""Activations of gated feed-forward layers."""

from __future__ import annotations

import torch
from torch.nn import functional

from .dispatch import kernel

__all__ = ["silu_mul"]


@kernel
def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """SwiGLU's product silu(gate) * up (Shazeer, 2020): [tokens, 2 * dim], gate first, to [tokens, dim]."""
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.silu(gate) * up
