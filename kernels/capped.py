"""Attention whose scores are capped softly, which torch's fused attention does not do."""

from __future__ import annotations

import torch

__all__ = ["capped_attention"]


def capped_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    scale: float,
    softcap: float,
) -> torch.Tensor:
    """Attention in which the product x of a query and a key, scaled, counts as `softcap * tanh(x / softcap)`.

    Gemma Team, "Gemma 2", 2024, section 2 (logit soft-capping). The softmax is computed in float32.

    Args:
        q: [..., heads, queries, head_dim].
        k: [..., heads or a divisor of them, keys, head_dim].
        v: Like `k`.
        mask: What is visible, or what is added to the scores; broadcast to [..., heads, queries, keys].
        scale: Factor on the products.
        softcap: What the absolute values of scores stay below.
    """
    group = q.shape[-3] // k.shape[-3]
    if group > 1:
        k, v = k.repeat_interleave(group, dim=-3), v.repeat_interleave(group, dim=-3)
    scores = softcap * torch.tanh((q @ k.transpose(-1, -2)).float() * (scale / softcap))
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return torch.softmax(scores, dim=-1).to(q.dtype) @ v
