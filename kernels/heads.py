"""What lies between the QKV projection and attention: qk-norm, rotation, and storing keys and values."""

from __future__ import annotations

import torch

from .dispatch import kernel
from .extend import rotated
from .norm import rms_norm
from .tables import Rotary

__all__ = ["store_heads"]


@kernel
def store_heads(
    qkv: torch.Tensor,
    k_pool: torch.Tensor,
    v_pool: torch.Tensor,
    slots: torch.Tensor,
    *,
    qk_norm: torch.Tensor | None = None,
    eps: float = 0.0,
    rotary: Rotary | None = None,
    positions: torch.Tensor | None = None,
) -> torch.Tensor:
    """Store the new tokens' keys and values; returns their queries [tokens, heads, head_dim].

    Args:
        qkv: [tokens, heads + 2 * kv_heads, head_dim]: queries, keys, values.
        k_pool: [slots, kv_heads, head_dim], of the dtype of `qkv`; written in place.
        v_pool: Like `k_pool`.
        slots: int64 [tokens]: where the tokens go, each somewhere else.
        qk_norm: Weights [heads + kv_heads, head_dim] of an RMS norm of each query and key.
        eps: Of that norm.
        rotary: Given if keys are stored rotated; then queries are rotated, too.
        positions: int64 [tokens]: the rotary position of each; only with `rotary`.
    """
    kv_heads = k_pool.shape[1]
    qk, v = qkv.tensor_split([qkv.shape[1] - kv_heads], dim=1)
    if qk_norm is not None:
        qk = rms_norm.reference(qk, qk_norm, eps)
    if rotary is not None:
        assert positions is not None
        qk = rotated(qk, rotary, positions)
    q, k = qk.tensor_split([qk.shape[1] - kv_heads], dim=1)
    k_pool.index_copy_(0, slots, k)
    v_pool.index_copy_(0, slots, v)
    return q.contiguous()
