"""Decode attention: one query a sequence, at the position of its last key.

A step plans once (`plan_decode`) and then runs every layer with the same plan. On CUDA both read lengths and
tables on the device, so they may be captured in a graph together.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention

from .capped import capped_attention
from .dispatch import kernel
from .extend import rotated
from .shared_prefix import SharedPlan
from .tables import KVTable, Rotary

__all__ = ["DecodePlan", "decode_attention", "plan_decode"]


@dataclass(frozen=True, slots=True)
class DecodePlan:
    """The keys of a decode batch and how they are cut into work items; int32 tensors on the pool's device."""

    rows: torch.Tensor  # [batch]: the table's row of each sequence
    lengths: torch.Tensor  # [batch]: keys of each, its query's included; 0: an idle row, whose output is 0
    window: int | None  # how many keys a query sees at most
    shared: SharedPlan | None  # prefixes that are read for several sequences at once
    lows: torch.Tensor  # [batch]: the first key that each reads for itself
    items: torch.Tensor  # [items]: the sequence of each work item; -1: none
    first_item: torch.Tensor  # [batch + 1]: where the items of each sequence begin
    chunk: torch.Tensor  # [1]: keys an item


@kernel
def plan_decode(
    lengths: torch.Tensor,
    rows: torch.Tensor,
    *,
    kv_heads: int,
    window: int | None = None,
    shared: SharedPlan | None = None,
) -> DecodePlan:
    """Cut a batch's keys into work items of equal size, so many that the device is filled.

    Args:
        lengths: int32 [batch]: the keys of each sequence, its query's included; 0 for an idle row.
        rows: int32 [batch]: the table's row of each sequence.
        kv_heads: KV heads of the pool.
        window: How many keys a query sees at most.
        shared: Prefixes of this batch that are read for several sequences at once.
    """
    lows = torch.zeros_like(lengths) if shared is None else shared.starts
    if window is not None:
        lows = torch.maximum(lows, lengths - window)
    batch = len(lengths)
    counts = (lengths > lows).int()  # torch attends a whole sequence at once
    first_item = torch.zeros(batch + 1, dtype=torch.int32, device=lengths.device)
    first_item[1:] = counts.cumsum(0)
    items = torch.full((batch,), -1, dtype=torch.int32, device=lengths.device)
    busy = counts.nonzero()[:, 0].int()
    items[: len(busy)] = busy
    chunk = (lengths - lows).clamp(min=1).max()[None]
    return DecodePlan(rows, lengths, window, shared, lows, items, first_item, chunk)


@kernel
def decode_attention(
    q: torch.Tensor,
    k_pool: torch.Tensor,
    v_pool: torch.Tensor,
    table: KVTable,
    plan: DecodePlan,
    *,
    scale: float,
    rotary: Rotary | None = None,
    softcap: float | None = None,
) -> torch.Tensor:
    """Attend `q` [batch, heads, head_dim] to pools [slots, kv_heads, head_dim]; the result is like `q`.

    Args:
        q: Queries; a multiple of `kv_heads` heads.
        k_pool: Keys, of the same dtype as `q` and contiguous.
        v_pool: Values, laid out like the keys.
        table: Where each sequence's keys are; those of the queries themselves are stored already.
        plan: From `plan_decode`. How it cuts the work changes the result by rounding only.
        scale: Factor on the products of queries and keys.
        rotary: Given if keys are stored and queries come unrotated; they are rotated on the way.
        softcap: A scaled product x counts as softcap * tanh(x / softcap).
    """
    heads, head_dim = q.shape[1:]
    kv_heads = k_pool.shape[1]
    last = plan.lengths.long() - 1
    n = torch.arange(max(int(last.max()) + 1, 1), device=q.device)
    rows = plan.rows.long()[:, None]
    inside = n <= last[:, None]
    n = torch.minimum(n, last.clamp(min=0)[:, None])  # shorter sequences repeat their last key, masked
    slots = table.pages[rows, n // table.page_size].long() * table.page_size + n % table.page_size
    slots = slots.masked_fill(last[:, None] < 0, 0)
    k, v = k_pool[slots], v_pool[slots]  # [batch, keys, kv_heads, head_dim]
    if rotary is not None:
        turns = n if table.positions is None else table.positions[rows, n].long()
        turns = turns.masked_fill(last[:, None] < 0, 0)
        q = rotated(q, rotary, turns[:, -1])
        k = rotated(k.flatten(0, 1), rotary, turns.flatten()).view(k.shape)
    visible = inside if plan.window is None else inside & (n > last[:, None] - plan.window)
    queries = q.view(len(q), kv_heads, heads // kv_heads, head_dim)
    k, v, mask = k.transpose(1, 2), v.transpose(1, 2), visible[:, None, None]
    if softcap is None:
        out = scaled_dot_product_attention(queries, k, v, attn_mask=mask, scale=scale)
    else:
        out = capped_attention(queries, k, v, mask, scale=scale, softcap=softcap)
    return out.reshape(q.shape).masked_fill((last < 0)[:, None, None], 0)
