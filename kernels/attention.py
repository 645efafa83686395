"""Attention over a paged KV pool: explicit KV slots, explicit query positions.

A sequence is a list of slots in causal order; the key in its i-th slot has position i. A query carries its
own position p and sees the keys 0..p (with a sliding window w: the keys p-w+1..p). Queries may therefore
sit anywhere in a sequence, in any number; where its keys lie in memory does not matter.

`plan_attention` does once a step what all layers share; `paged_attention` runs one layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import scaled_dot_product_attention

from .capped import capped_attention

__all__ = ["AttentionPlan", "PagedBatch", "paged_attention", "plan_attention", "store_kv"]

Ints = NDArray[np.int64]

_QUERY_BLOCK = 256  # queries of one sequence that are run together: bounds the mask, skips keys of the future
_SHORT_CONTEXT = (
    256  # single queries with contexts up to this are padded to one another; above, by powers of 2
)


@dataclass(frozen=True, slots=True)
class PagedBatch:
    """A ragged batch: the queries of each sequence follow one another, as do its slots."""

    slots: Ints  # [sum(key_counts)]: the KV slots of each sequence in causal order, concatenated
    key_counts: tuple[int, ...]  # [sequences]
    positions: Ints  # [sum(query_counts)]: the causal position of each query, below its sequence's key count
    query_counts: tuple[int, ...]  # [sequences]


@dataclass(frozen=True, slots=True)
class _Tile:
    """Queries that are attended in one call: `batch` sequences of `queries` queries each."""

    rows: slice | torch.Tensor  # of the query tensor
    slots: torch.Tensor  # int64 [batch * keys]
    batch: int
    mask: torch.Tensor | None  # additive [batch, 1, queries * group, keys]; None: all is visible


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """What `paged_attention` needs of a batch, for one window and one number of query heads a KV head."""

    tiles: tuple[_Tile, ...]
    group: int


def plan_attention(
    batch: PagedBatch,
    *,
    group: int,
    window: int | None,
    dtype: torch.dtype,
    device: torch.device,
) -> AttentionPlan:
    """Cut `batch` into tiles, with their key slots and masks on `device`.

    `group` is the number of query heads that share a KV head, `window` the sliding window in tokens.
    Single queries (decodes) of similar context are padded into one tile; longer runs make tiles of their own.
    """
    planner = _Planner(batch, group, window, dtype, device)
    buckets: dict[int, list[int]] = {}
    tiles: list[_Tile] = []
    for sequence, queries in enumerate(batch.query_counts):
        if queries == 1:
            length = max(planner.visible(sequence), _SHORT_CONTEXT)
            buckets.setdefault((length - 1).bit_length(), []).append(sequence)
        else:
            tiles.extend(planner.run(sequence))
    tiles.extend(planner.singles(members) for members in buckets.values())
    return AttentionPlan(tuple(tiles), group)


def paged_attention(
    q: torch.Tensor,
    k_pool: torch.Tensor,
    v_pool: torch.Tensor,
    plan: AttentionPlan,
    *,
    scale: float,
    softcap: float | None = None,
) -> torch.Tensor:
    """Attend `q` [tokens, heads, head_dim] to pools [slots, kv_heads, head_dim]; the result is like `q`.

    With `softcap` c, a product x of a query and a key, scaled, counts as c * tanh(x / c).
    """
    if len(plan.tiles) == 1 and isinstance(plan.tiles[0].rows, slice):
        return _attend(q, k_pool, v_pool, plan.tiles[0], plan.group, scale, softcap)
    out = torch.empty_like(q)
    for tile in plan.tiles:
        out[tile.rows] = _attend(q[tile.rows], k_pool, v_pool, tile, plan.group, scale, softcap)
    return out


def store_kv(
    k: torch.Tensor, v: torch.Tensor, k_pool: torch.Tensor, v_pool: torch.Tensor, slots: torch.Tensor
) -> None:
    """Write `k` and `v` [tokens, kv_heads, head_dim] into `slots` (int64 [tokens]) of the pools, in place."""
    k_pool.index_copy_(0, slots, k)
    v_pool.index_copy_(0, slots, v)


def _attend(
    q: torch.Tensor,
    k_pool: torch.Tensor,
    v_pool: torch.Tensor,
    tile: _Tile,
    group: int,
    scale: float,
    softcap: float | None,
) -> torch.Tensor:
    """One tile. Query heads of a KV head become further queries of it, so keys are never repeated."""
    kv_heads, head_dim = k_pool.shape[1:]
    batch = tile.batch
    folded = (
        q.view(batch, -1, kv_heads, group, head_dim).transpose(1, 2).reshape(batch, kv_heads, -1, head_dim)
    )
    keys = _gather(k_pool, tile.slots, batch)
    values = _gather(v_pool, tile.slots, batch)
    if softcap is None:
        out = scaled_dot_product_attention(folded, keys, values, attn_mask=tile.mask, scale=scale)
    else:
        out = capped_attention(folded, keys, values, tile.mask, scale=scale, softcap=softcap)
    return out.view(batch, kv_heads, -1, group, head_dim).transpose(1, 2).reshape(q.shape)


def _gather(pool: torch.Tensor, slots: torch.Tensor, batch: int) -> torch.Tensor:
    """The rows `slots` of a pool as [batch, kv_heads, keys, head_dim]."""
    return pool.index_select(0, slots).view(batch, -1, *pool.shape[1:]).transpose(1, 2)


class _Planner:
    """The tiles of one batch."""

    def __init__(
        self, batch: PagedBatch, group: int, window: int | None, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.group, self.window, self.dtype, self.device = group, window, dtype, device
        self.slots = batch.slots
        self.positions = batch.positions
        self.first_key = _starts(batch.key_counts)
        self.first_query = _starts(batch.query_counts)

    def visible(self, sequence: int) -> int:
        """How many keys the only query of `sequence` sees."""
        seen = int(self.positions[self.first_query[sequence]]) + 1
        return seen if self.window is None else min(seen, self.window)

    def run(self, sequence: int) -> list[_Tile]:
        """The tiles of a sequence with several queries."""
        first, end = self.first_query[sequence], self.first_query[sequence + 1]
        blocks = range(first, end, _QUERY_BLOCK)
        return [self._block(sequence, at, min(at + _QUERY_BLOCK, end)) for at in blocks]

    def _block(self, sequence: int, first: int, end: int) -> _Tile:
        positions = self.positions[first:end, None]
        low = 0 if self.window is None else max(int(positions.min()) - self.window + 1, 0)
        high = int(positions.max()) + 1
        keys = np.arange(low, high)
        hidden = keys > positions
        if self.window is not None:
            hidden |= keys <= positions - self.window
        base = self.first_key[sequence]
        slots = self.slots[base + low : base + high]
        mask = self._mask(hidden).repeat_interleave(self.group, dim=0)[None, None]
        return _Tile(slice(first, end), self._tensor(slots), 1, mask)

    def singles(self, sequences: Sequence[int]) -> _Tile:
        """One tile of sequences with one query each, padded to the longest context among them."""
        lengths = np.array([self.visible(sequence) for sequence in sequences])
        table = np.zeros((len(sequences), lengths.max()), dtype=np.int64)
        rows = [self.first_query[sequence] for sequence in sequences]
        for row, (sequence, length) in enumerate(zip(sequences, lengths, strict=True)):
            end = self.first_key[sequence] + int(self.positions[rows[row]]) + 1
            table[row, :length] = self.slots[end - length : end]
        mask = None
        if lengths.min() < table.shape[1]:
            hidden = np.arange(table.shape[1]) >= lengths[:, None]
            mask = self._mask(hidden)[:, None, None].expand(-1, 1, self.group, -1)
        return _Tile(self._rows(rows), self._tensor(table.reshape(-1)), len(sequences), mask)

    def _rows(self, rows: list[int]) -> slice | torch.Tensor:
        if rows[-1] - rows[0] == len(rows) - 1:
            return slice(rows[0], rows[-1] + 1)
        return self._tensor(np.array(rows))

    def _mask(self, hidden: NDArray[np.bool_]) -> torch.Tensor:
        mask = torch.zeros(hidden.shape, dtype=self.dtype)
        return mask.masked_fill_(torch.from_numpy(hidden), -torch.inf).to(self.device)

    def _tensor(self, values: Ints) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)


def _starts(counts: Sequence[int]) -> list[int]:
    """Where each of consecutive runs starts, and where the last one ends."""
    return [0, *np.cumsum(counts).tolist()]
