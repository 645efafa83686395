"""Extend attention: any queries of sequences whose keys are in the pool, as in (chunked) prefill."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention

from .capped import capped_attention
from .dispatch import kernel
from .tables import KVTable, Rotary

__all__ = ["ExtendBatch", "extend_attention", "rotated"]

_QUERY_BLOCK = 256  # queries that are run together: bounds the mask


@dataclass(frozen=True, slots=True)
class ExtendBatch:
    """The queries of a batch, those of a sequence behind one another; int32 tensors on the pool's device.

    A query at position p sees the keys 0..p of its sequence. Positions may come in any order and any
    subset; runs of ascending positions are fastest.
    """

    rows: torch.Tensor  # [batch]: the table's row of each sequence
    starts: torch.Tensor  # [batch + 1]: where the queries of each sequence begin
    positions: torch.Tensor  # [queries]


@kernel
def extend_attention(
    q: torch.Tensor,
    k_pool: torch.Tensor,
    v_pool: torch.Tensor,
    table: KVTable,
    batch: ExtendBatch,
    *,
    scale: float,
    window: int | None = None,
    rotary: Rotary | None = None,
    softcap: float | None = None,
) -> torch.Tensor:
    """Attend `q` [queries, heads, head_dim] to pools [slots, kv_heads, head_dim]; the result is like `q`.

    Args:
        q: Queries; a multiple of `kv_heads` heads.
        k_pool: Keys, of the same dtype as `q` and contiguous.
        v_pool: Values, laid out like the keys.
        table: Where each sequence's keys are; those of the queries themselves are stored already.
        batch: Whose the queries are, and where in their sequences.
        scale: Factor on the products of queries and keys.
        window: A query at p sees the keys p-window+1..p only.
        rotary: Given if keys are stored and queries come unrotated; they are rotated on the way.
        softcap: A scaled product x counts as softcap * tanh(x / softcap).
    """
    out = torch.empty_like(q)
    starts = batch.starts.tolist()
    for index, row in enumerate(batch.rows.tolist()):
        for first in range(starts[index], starts[index + 1], _QUERY_BLOCK):
            rows = slice(first, min(first + _QUERY_BLOCK, starts[index + 1]))
            positions = batch.positions[rows].long()
            keys = int(positions.max()) + 1
            slots = table.slots(row, keys)
            queries, k, v = q[rows], k_pool[slots], v_pool[slots]
            if rotary is not None:
                turns = table.rotary_positions(row, keys)
                queries, k = rotated(queries, rotary, turns[positions]), rotated(k, rotary, turns)
            n = torch.arange(keys, device=q.device)
            visible = n <= positions[:, None]
            if window is not None:
                visible &= n > positions[:, None] - window
            queries, k, v = (x.transpose(0, 1)[None] for x in (queries, k, v))
            if softcap is None:
                attended = scaled_dot_product_attention(
                    queries, k, v, attn_mask=visible, scale=scale, enable_gqa=True
                )
            else:
                attended = capped_attention(queries, k, v, visible, scale=scale, softcap=softcap)
            out[rows] = attended[0].transpose(0, 1)
    return out


def rotated(x: torch.Tensor, rotary: Rotary, positions: torch.Tensor) -> torch.Tensor:
    """Turn the pairs (x[i], x[i + head_dim/2]) of each head of `x` [n, heads, head_dim] to `positions` [n].

    Su et al., "RoFormer", 2021. Computed in float32; the result has the dtype of `x`.
    """
    cos, sin = rotary.cos[positions][:, None], rotary.sin[positions][:, None]
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)
