"""Mixtures of experts: the pairs of a token and an expert are sorted by experts, whose products are tiled.

The host knows no more than how many tokens and experts there are: grids are as large as they can have to be,
and what is too much of them returns at once. So a step can be captured in a CUDA graph. Nothing is added up
in an order that chance decides.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final, NamedTuple

import torch
import triton
import triton.language as tl

from weft.kernels.experts import SIZES, Matrices, Routing
from weft.kernels.fp8 import Fp8Matrix, quantize_rows

from .common import dot

__all__ = ["mix_experts", "route"]


class Tiles(NamedTuple):
    """How a product is cut."""

    m: int  # rows: tokens of one expert
    n: int  # columns: outputs; of `gate_up` each of gate and up
    k: int  # bytes of a row that are multiplied at once
    warps: int
    stages: int


CHOICES: Final = (
    (Tiles(16, 64, 256, 4, 4), Tiles(16, 64, 256, 4, 4)),
    (Tiles(32, 128, 256, 4, 3), Tiles(32, 128, 256, 4, 3)),
    (Tiles(64, 128, 128, 4, 4), Tiles(64, 128, 128, 4, 3)),
    (Tiles(128, 128, 128, 8, 4), Tiles(128, 256, 128, 8, 4)),
)
"""The tiles of `gate_up` and of `down` for each of `SIZES`, and for more tokens: measured on an H200 with the layers
of Qwen3-30B-A3B and Mixtral-8x7B."""

_TOGETHER: Final = 16
"""Blocks of rows that go through the columns side by side: those of an expert read its weights together, and
the tokens of so few stay in the cache."""

_SORTED: Final = 2048  # pairs that are sorted at once
_SUMMED: Final = 1024  # columns


def route(logits: torch.Tensor, *, chosen: int, normalized: bool, shared: int = 0) -> Routing:
    """See `weft.kernels.experts.route`."""
    logits = logits.contiguous()
    tokens, experts = logits.shape
    if shared:
        experts -= 1
    shape = (tokens, chosen + shared)
    found = torch.empty(shape, dtype=torch.int32, device=logits.device)
    weights = torch.empty(shape, dtype=torch.float32, device=logits.device)
    _route[(tokens,)](
        logits,
        found,
        weights,
        EXPERTS=experts,
        CHOSEN=chosen,
        SHARED=shared,
        NORMALIZED=normalized,
        BLOCK_E=triton.next_power_of_2(experts),
        BLOCK_P=triton.next_power_of_2(chosen + shared),
        num_warps=1,
    )
    return Routing(found, weights)


def mix_experts(x: torch.Tensor, gate_up: Matrices, down: Matrices, routing: Routing) -> torch.Tensor:
    """See `weft.kernels.experts.mix_experts`."""
    tokens, hidden = x.shape
    pairs = routing.experts.numel()
    by_expert = sort_pairs(routing, len(_values(gate_up)))
    first, second = CHOICES[bisect_left(SIZES, pairs / by_expert.experts)]
    inner = multiply_in(x.contiguous(), gate_up, by_expert, first)
    found = multiply_out(inner, down, by_expert, routing.weights, second)
    out = torch.empty_like(x)
    grid = (tokens, triton.cdiv(hidden, _SUMMED))
    _sum[grid](found, out, hidden, PLACES=by_expert.places, BLOCK=_SUMMED, num_warps=4)
    return out


class Sorted(NamedTuple):
    """Pairs of a token and one of its experts, numbered token by token, in the order of the experts."""

    order: torch.Tensor  # int32 [pairs]
    starts: torch.Tensor  # int32 [experts + 1]: where those of each expert begin in `order`
    places: int  # pairs of a token

    @property
    def experts(self) -> int:
        """How many there are."""
        return len(self.starts) - 1

    def blocks(self, rows: int) -> int:
        """The most that it may take of blocks of so many rows, each of one expert's."""
        pairs = len(self.order)
        return (pairs + min(pairs, self.experts) * (rows - 1)) // rows


def sort_pairs(routing: Routing, experts: int) -> Sorted:
    """Sort by expert, in each by token."""
    pairs = routing.experts.numel()
    order = torch.empty(pairs, dtype=torch.int32, device=routing.experts.device)
    starts = torch.empty(experts + 1, dtype=torch.int32, device=order.device)
    _sort[(experts + 1,)](routing.experts, order, starts, pairs, BLOCK=_SORTED, num_warps=8)
    return Sorted(order, starts, routing.experts.shape[1])


def multiply_in(x: torch.Tensor, matrices: Matrices, by_expert: Sorted, tiles: Tiles) -> torch.Tensor:
    """SiLU(gate) * up of the sorted pairs of `x` [tokens, hidden]: [pairs, inner]."""
    values, factors = _values(matrices), _factors(matrices)
    inner = values.shape[1] // 2
    out = torch.empty(len(by_expert.order), inner, dtype=x.dtype, device=x.device)
    rows, row_factors = quantize_rows(x) if factors is not None else (x, None)
    _in[(triton.cdiv(inner, tiles.n), by_expert.blocks(tiles.m))](
        rows,
        row_factors,
        values,
        factors,
        by_expert.order,
        by_expert.starts,
        out,
        EXPERTS=by_expert.experts,
        PLACES=by_expert.places,
        HIDDEN=x.shape[1],
        INNER=inner,
        **_blocks(by_expert, rows, tiles),
    )
    return out


def multiply_out(
    x: torch.Tensor, matrices: Matrices, by_expert: Sorted, weights: torch.Tensor, tiles: Tiles
) -> torch.Tensor:
    """The products of `x` [pairs, inner], which are sorted, times `weights`: [pairs, hidden], by token."""
    values, factors = _values(matrices), _factors(matrices)
    hidden = values.shape[1]
    out = torch.empty(len(x), hidden, dtype=x.dtype, device=x.device)
    rows, row_factors = quantize_rows(x) if factors is not None else (x, None)
    _out[(triton.cdiv(hidden, tiles.n), by_expert.blocks(tiles.m))](
        rows,
        row_factors,
        values,
        factors,
        weights,
        by_expert.order,
        by_expert.starts,
        out,
        EXPERTS=by_expert.experts,
        HIDDEN=hidden,
        INNER=x.shape[1],
        **_blocks(by_expert, rows, tiles),
    )
    return out


def _values(matrices: Matrices) -> torch.Tensor:
    return matrices.values if isinstance(matrices, Fp8Matrix) else matrices


def _factors(matrices: Matrices) -> torch.Tensor | None:
    return matrices.factors if isinstance(matrices, Fp8Matrix) else None


def _blocks(by_expert: Sorted, rows: torch.Tensor, tiles: Tiles) -> dict[str, int]:
    return {
        "BLOCK_E": triton.next_power_of_2(by_expert.experts),
        "BLOCK_M": tiles.m,
        "BLOCK_N": tiles.n,
        "BLOCK_K": tiles.k // rows.element_size(),
        "TOGETHER": _TOGETHER,
        "num_warps": tiles.warps,
        "num_stages": tiles.stages,
    }


@triton.jit
def _route(
    logits,
    experts,
    weights,
    EXPERTS: tl.constexpr,
    CHOSEN: tl.constexpr,
    SHARED: tl.constexpr,
    NORMALIZED: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """One token."""
    token = tl.program_id(0).to(tl.int64)
    e = tl.arange(0, BLOCK_E)
    place = tl.arange(0, BLOCK_P)
    logits += token * (EXPERTS + (SHARED > 0))
    left = tl.load(logits + e, mask=e < EXPERTS, other=-float("inf")).to(tl.float32)
    highest = tl.max(left, 0)
    total = tl.sum(tl.exp(left - highest), 0)
    found = EXPERTS - CHOSEN + place  # of the shared ones, which come behind those chosen
    weight = tl.zeros([BLOCK_P], tl.float32)
    for at in range(CHOSEN):
        best = tl.argmax(left, 0)
        weight = tl.where(place == at, tl.exp(tl.max(left, 0) - highest) / total, weight)
        found = tl.where(place == at, best, found)
        left = tl.where(e == best, -float("inf"), left)
    if NORMALIZED:
        weight /= tl.sum(weight, 0)
    if SHARED > 0:
        gate = tl.sigmoid(tl.load(logits + EXPERTS).to(tl.float32))
        weight = tl.where(place < CHOSEN, weight, gate)
    at = token * (CHOSEN + SHARED) + place
    tl.store(experts + at, found, mask=place < CHOSEN + SHARED)
    tl.store(weights + at, weight, mask=place < CHOSEN + SHARED)


@triton.jit(do_not_specialize=["pairs"])
def _sort(experts, order, starts, pairs, BLOCK: tl.constexpr):
    """The pairs of one expert; the last program has none, and says where they end."""
    expert = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    start = 0
    for first in range(0, pairs, BLOCK):
        inside = first + i < pairs
        lower = inside & (tl.load(experts + first + i, mask=inside, other=0) < expert)
        start += tl.sum(lower.to(tl.int32), 0)
    tl.store(starts + expert, start)
    for first in range(0, pairs, BLOCK):
        inside = first + i < pairs
        own = inside & (tl.load(experts + first + i, mask=inside, other=0) == expert)
        counted = tl.cumsum(own.to(tl.int32), 0)
        tl.store(order + start + counted - 1, first + i, mask=own)
        start += tl.max(counted, 0)


@triton.jit
def _place(TOGETHER: tl.constexpr):
    """The block of rows of this program, and the block of columns."""
    return tl.swizzle2d(tl.program_id(1), tl.program_id(0), tl.num_programs(1), tl.num_programs(0), TOGETHER)


@triton.jit
def _find(starts, block, EXPERTS: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_M: tl.constexpr):
    """The expert of a block of rows, its first row, and where the expert's rows end; none: if that is 0.

    The expert is found by counting those whose blocks end before.
    """
    e = tl.arange(0, BLOCK_E)
    first = tl.load(starts + e, mask=e < EXPERTS, other=0)
    end = tl.load(starts + e + 1, mask=e < EXPERTS, other=0)
    blocks = tl.cdiv(end - first, BLOCK_M)
    expert = tl.sum((tl.cumsum(blocks, 0) <= block).to(tl.int32), 0)
    block -= tl.sum(tl.where(e < expert, blocks, 0), 0)
    row = tl.sum(tl.where(e == expert, first, 0), 0) + block * BLOCK_M
    return expert.to(tl.int64), row, tl.sum(tl.where(e == expert, end, 0), 0)


@triton.jit
def _load(at, k, K: tl.constexpr, BLOCK_K: tl.constexpr):
    """The elements of a tile at `at`, whose positions `k` in their rows may lie behind the end, K."""
    return tl.load(at) if K % BLOCK_K == 0 else tl.load(at, mask=k < K, other=0.0)


@triton.jit
def _in(
    x,
    x_factors,
    matrices,
    factors,
    order,
    starts,
    out,
    EXPERTS: tl.constexpr,
    PLACES: tl.constexpr,
    HIDDEN: tl.constexpr,
    INNER: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    TOGETHER: tl.constexpr,
):
    """A tile of SiLU(gate) * up."""
    block, column = _place(TOGETHER)
    expert, first, end = _find(starts, block, EXPERTS, BLOCK_E, BLOCK_M)
    if end == 0:
        return
    rows = first + tl.arange(0, BLOCK_M)
    columns = column * BLOCK_N + tl.arange(0, BLOCK_N)
    token = tl.load(order + tl.minimum(rows, end - 1)).to(tl.int64) // PLACES
    output = expert * 2 * INNER + tl.minimum(columns, INNER - 1)
    k = tl.arange(0, BLOCK_K)
    x_at = x + token[:, None] * HIDDEN + k[None, :]
    gate_at = matrices + output[None, :] * HIDDEN + k[:, None]
    up_at = gate_at + INNER * HIDDEN
    gate = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    up = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for begin in range(0, HIDDEN, BLOCK_K):
        tile = _load(x_at + begin, begin + k[None, :], HIDDEN, BLOCK_K)
        gate += dot(tile, _load(gate_at + begin, begin + k[:, None], HIDDEN, BLOCK_K))
        up += dot(tile, _load(up_at + begin, begin + k[:, None], HIDDEN, BLOCK_K))
    if factors is not None:
        scale = tl.load(x_factors + token)
        gate *= scale[:, None] * tl.load(factors + output)[None, :]
        up *= scale[:, None] * tl.load(factors + output + INNER)[None, :]
    inner = gate * tl.sigmoid(gate) * up
    inside = (rows < end)[:, None] & (columns < INNER)[None, :]
    at = rows.to(tl.int64)[:, None] * INNER + columns[None, :]
    tl.store(out + at, inner.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _out(
    x,
    x_factors,
    matrices,
    factors,
    weights,
    order,
    starts,
    out,
    EXPERTS: tl.constexpr,
    HIDDEN: tl.constexpr,
    INNER: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    TOGETHER: tl.constexpr,
):
    """A tile of what experts give, times their weights, each row at the place of its pair."""
    block, column = _place(TOGETHER)
    expert, first, end = _find(starts, block, EXPERTS, BLOCK_E, BLOCK_M)
    if end == 0:
        return
    rows = first + tl.arange(0, BLOCK_M)
    columns = column * BLOCK_N + tl.arange(0, BLOCK_N)
    row = tl.minimum(rows, end - 1).to(tl.int64)
    output = expert * HIDDEN + tl.minimum(columns, HIDDEN - 1)
    k = tl.arange(0, BLOCK_K)
    x_at = x + row[:, None] * INNER + k[None, :]
    at = matrices + output[None, :] * INNER + k[:, None]
    product = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for begin in range(0, INNER, BLOCK_K):
        tile = _load(x_at + begin, begin + k[None, :], INNER, BLOCK_K)
        product += dot(tile, _load(at + begin, begin + k[:, None], INNER, BLOCK_K))
    if factors is not None:
        product *= tl.load(x_factors + row)[:, None] * tl.load(factors + output)[None, :]
    pair = tl.load(order + row).to(tl.int64)
    product *= tl.load(weights + pair)[:, None]
    inside = (rows < end)[:, None] & (columns < HIDDEN)[None, :]
    tl.store(out + pair[:, None] * HIDDEN + columns[None, :], product.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _sum(found, out, hidden, PLACES: tl.constexpr, BLOCK: tl.constexpr):
    """Part of one token."""
    token = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < hidden
    total = tl.zeros([BLOCK], tl.float32)
    for place in range(PLACES):
        row = found + (token * PLACES + place) * hidden
        total += tl.load(row + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + token * hidden + at, total.to(out.dtype.element_ty), mask=inside)
