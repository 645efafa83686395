"""Attention over the paged KV pool, in the routines that are fastest on a CPU.

`plan` cuts a step's batch into tiles once, for all layers; each tile attends its queries in its own way:

- `_Single`: one query. Its sequence's keys are used where they lie if their slots are consecutive.
- `_Singles`: single queries of several sequences, padded to one another. Only keys are gathered; the sum of
  the values is an embedding bag, which reads them in their slots.
- `_Run`: several queries of one sequence, by torch's fused attention.

Queries come scaled already. What is visible to a query is said in `weft.kernels.attention`, whose results
these are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from weft.kernels.attention import PagedBatch
from weft.runtime.kv.radix import Tokens

__all__ = ["Heads", "Tile", "plan"]

_QUERY_BLOCK = 256  # queries of a run that are attended together: bounds the mask, skips keys of the future
_FEW = 3  # single queries of similar context that are attended one by one
_SHORT = 256  # contexts up to this are padded to one another; above, by powers of 2


@dataclass(frozen=True, slots=True)
class Heads:
    """The heads of a model."""

    kv_heads: int
    group: int  # query heads of each
    dim: int


class Tile(Protocol):
    """Queries that are attended together."""

    def attend(self, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, out: torch.Tensor) -> None:
        """Attend this tile's rows of `q`, and write them into those of `out` (both [tokens, heads, dim]).

        `keys` and `values` are one layer's pools [slots, kv_heads, dim].
        """


def plan(batch: PagedBatch, heads: Heads, window: int | None) -> list[Tile]:
    """Cut `batch` into tiles; `window` is the sliding window in tokens."""
    return list(_Planner(batch, heads, window).tiles())


@dataclass(frozen=True, slots=True)
class _Single:
    row: int
    slots: slice | torch.Tensor
    heads: Heads

    def attend(self, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, out: torch.Tensor) -> None:
        shape = (self.heads.kv_heads, self.heads.group, self.heads.dim)
        scores = torch.bmm(q[self.row].view(shape), _pick(keys, self.slots).permute(1, 2, 0))
        weights = torch.softmax(scores, dim=-1)
        torch.bmm(weights, _pick(values, self.slots).transpose(0, 1), out=out[self.row].view(shape))


@dataclass(frozen=True, slots=True)
class _Singles:
    rows: slice | torch.Tensor
    slots: torch.Tensor  # int32 [sequences * longest], 0 where a sequence is shorter
    value_rows: (
        torch.Tensor
    )  # int32 [kv_heads * sequences * group * longest]: the same, of [slots * kv_heads]
    bags: torch.Tensor  # int32: where each head's part of `value_rows` begins
    hidden: torch.Tensor  # [sequences, 1, longest]: -inf where a sequence is shorter
    heads: Heads

    def attend(self, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, out: torch.Tensor) -> None:
        count, _, longest = self.hidden.shape
        kv_heads, group, dim = self.heads.kv_heads, self.heads.group, self.heads.dim
        queries = q[self.rows].view(count, kv_heads, group, dim)
        gathered = keys.index_select(0, self.slots).view(count, longest, kv_heads, dim)
        scores = torch.empty(kv_heads, count, group, longest)
        for head in range(kv_heads):
            of_head = gathered[:, :, head].transpose(1, 2)
            torch.baddbmm(self.hidden, queries[:, head], of_head, out=scores[head])
        weights = torch.softmax(scores, dim=-1).view(-1)
        flat = values.view(-1, dim)
        sums = torch.embedding_bag(flat, self.value_rows, self.bags, per_sample_weights=weights)[0]
        out[self.rows] = sums.view(kv_heads, count, group, dim).transpose(0, 1).flatten(1, 2)


@dataclass(frozen=True, slots=True)
class _Run:
    rows: slice
    slots: slice | torch.Tensor
    mask: torch.Tensor | None  # additive [1, 1, queries, keys]; None: query i sees the keys 0..i

    def attend(self, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, out: torch.Tensor) -> None:
        attended = scaled_dot_product_attention(
            q[None, self.rows].transpose(1, 2),
            _pick(keys, self.slots)[None].transpose(1, 2),
            _pick(values, self.slots)[None].transpose(1, 2),
            attn_mask=self.mask,
            is_causal=self.mask is None,
            scale=1.0,
            enable_gqa=True,
        )
        out[self.rows] = attended[0].transpose(0, 1)


def _pick(pool: torch.Tensor, slots: slice | torch.Tensor) -> torch.Tensor:
    """The rows of a pool: a view where they follow one another."""
    return pool[slots] if isinstance(slots, slice) else pool.index_select(0, slots)


class _Planner:
    """The tiles of one batch."""

    def __init__(self, batch: PagedBatch, heads: Heads, window: int | None) -> None:
        self.batch, self.heads, self.window = batch, heads, window
        self.first_key = list(accumulate(batch.key_counts, initial=0))
        self.first_query = list(accumulate(batch.query_counts, initial=0))

    def tiles(self) -> Iterator[Tile]:
        singles: dict[int, list[int]] = {}
        for sequence, queries in enumerate(self.batch.query_counts):
            if queries == 1:
                low, high = self._visible(sequence)
                singles.setdefault((max(high - low, _SHORT) - 1).bit_length(), []).append(sequence)
            else:
                yield from self._runs(sequence)
        for members in singles.values():
            if len(members) <= _FEW:
                yield from map(self._single, members)
            else:
                yield self._padded(members)

    def _visible(self, sequence: int) -> tuple[int, int]:
        """The keys that the only query of a sequence sees."""
        high = int(self.batch.positions[self.first_query[sequence]]) + 1
        return (0 if self.window is None else max(high - self.window, 0)), high

    def _slots(self, sequence: int, low: int, high: int) -> Tokens:
        first = self.first_key[sequence]
        return self.batch.slots[first + low : first + high]

    def _single(self, sequence: int) -> Tile:
        slots = _consecutive(self._slots(sequence, *self._visible(sequence)))
        return _Single(self.first_query[sequence], slots, self.heads)

    def _padded(self, sequences: Sequence[int]) -> Tile:
        parts = [self._slots(sequence, *self._visible(sequence)) for sequence in sequences]
        lengths = np.array([len(part) for part in parts])
        present = np.arange(lengths.max()) < lengths[:, None]
        slots = np.zeros(present.shape, dtype=np.int32)
        slots[present] = np.concatenate(parts)
        table = torch.from_numpy(slots)
        kv_heads, group = self.heads.kv_heads, self.heads.group
        of_heads = table * kv_heads + torch.arange(kv_heads, dtype=torch.int32)[:, None, None]
        value_rows = of_heads[:, :, None].expand(-1, -1, group, -1).reshape(-1)
        hidden = torch.zeros(present.shape).masked_fill_(torch.from_numpy(~present), -torch.inf)
        return _Singles(
            rows=self._rows([self.first_query[sequence] for sequence in sequences]),
            slots=table.view(-1),
            value_rows=value_rows,
            bags=torch.arange(0, len(value_rows), present.shape[1], dtype=torch.int32),
            hidden=hidden[:, None],
            heads=self.heads,
        )

    def _runs(self, sequence: int) -> Iterator[Tile]:
        first, end = self.first_query[sequence], self.first_query[sequence + 1]
        for at in range(first, end, _QUERY_BLOCK):
            yield self._run(sequence, at, min(at + _QUERY_BLOCK, end))

    def _run(self, sequence: int, first: int, end: int) -> Tile:
        positions = self.batch.positions[first:end]
        low = 0 if self.window is None else max(int(positions.min()) - self.window + 1, 0)
        high = int(positions.max()) + 1
        slots = _consecutive(self._slots(sequence, low, high))
        if self.window is None and np.array_equal(positions, np.arange(end - first)):
            return _Run(slice(first, end), slots, None)
        at = torch.from_numpy(positions)[:, None]
        keys = torch.arange(low, high)
        hidden = keys > at
        if self.window is not None:
            hidden |= keys <= at - self.window
        mask = torch.zeros(hidden.shape).masked_fill_(hidden, -torch.inf)
        return _Run(slice(first, end), slots, mask[None, None])

    @staticmethod
    def _rows(rows: list[int]) -> slice | torch.Tensor:
        if rows[-1] - rows[0] == len(rows) - 1:
            return slice(rows[0], rows[-1] + 1)
        return torch.tensor(rows)


def _consecutive(slots: Tokens) -> slice | torch.Tensor:
    """The slots as a slice if they follow one another."""
    first, count = int(slots[0]), len(slots)
    if int(slots[-1]) - first == count - 1 and np.array_equal(slots, np.arange(first, first + count)):
        return slice(first, first + count)
    return torch.from_numpy(slots)
