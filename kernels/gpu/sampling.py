"""Sampling without a sort, one program a row.

Weights are integers, 2^40 for the most likely token, so that sums are exact in any order. What top-k and
top-p keep is found by bisection over the logits: the least logit from which upwards enough tokens, or enough
weight, remain. Logits are compared through integers that are ordered like them, so it always ends.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from weft.kernels.sampling import Draws

from .common import LOG2_E

__all__ = ["draw"]

_HEAVIEST = tl.constexpr(float(1 << 40))


def draw(logits: torch.Tensor, draws: Draws) -> torch.Tensor:
    """See `weft.kernels.sampling.draw`."""
    rows, vocab = logits.shape
    tokens = torch.empty(rows, dtype=torch.int64, device=logits.device)
    block = min(4096, triton.next_power_of_2(vocab))
    _draw[(rows,)](
        logits,
        draws.temperature,
        draws.top_k,
        draws.top_p,
        draws.seed,
        draws.position,
        tokens,
        vocab,
        logits.stride(0),
        LOG2_E,
        BLOCK=block,
        num_warps=8,
    )
    return tokens


@triton.jit
def _draw(
    logits,
    temperatures,
    top_ks,
    top_ps,
    seeds,
    positions,
    tokens,
    vocab,
    stride,
    log2_e,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0)
    logits += row.to(tl.int64) * stride
    i = tl.arange(0, BLOCK)
    highest = tl.full([BLOCK], float("-inf"), tl.float32)
    highest_at = i
    for start in range(0, vocab, BLOCK):
        x = _load(logits, start + i, vocab)
        better = x > highest
        highest = tl.where(better, x, highest)
        highest_at = tl.where(better, start + i, highest_at)
    top = tl.max(highest, 0)
    token = tl.min(tl.where(highest == top, highest_at, vocab), 0).to(tl.int64)
    temperature = tl.load(temperatures + row)
    if temperature > 0:
        scale = (log2_e / temperature).to(tl.float32)
        top_k = tl.load(top_ks + row)
        top_p = tl.load(top_ps + row)
        edge = tl.full([], -(1 << 31), tl.int64)  # tokens above it are kept, and `ties` of those on it
        ties = tl.full([], 0, tl.int64)
        high = _key(top).to(tl.int64)
        whole = _above(logits, edge, top, scale, vocab, True, BLOCK)
        if (top_k > 0) & (top_k < vocab):
            edge = _edge(logits, edge, high, top_k, top, scale, vocab, False, BLOCK)
            ties = top_k - _above(logits, edge, top, scale, vocab, False, BLOCK)
            above = _above(logits, edge, top, scale, vocab, True, BLOCK)
            whole = above + ties * _weight_at(edge, top, scale)
        if top_p < 1.0:
            wanted = tl.ceil(top_p * whole.to(tl.float64)).to(tl.int64)
            wanted = tl.minimum(tl.maximum(wanted, 1), whole)
            lowest = edge
            edge = _edge(logits, lowest, high, wanted, top, scale, vocab, True, BLOCK)
            above = _above(logits, edge, top, scale, vocab, True, BLOCK)
            each = _weight_at(edge, top, scale)
            enough = tl.cdiv(wanted - above, tl.maximum(each, 1))
            ties = tl.where((edge == lowest) & (top_k > 0), tl.minimum(ties, enough), enough)
            whole = above + ties * each
        chance = _uniform(tl.load(seeds + row), tl.load(positions + row))
        target = tl.minimum((chance * whole.to(tl.float64)).to(tl.int64), whole - 1)
        token = _find(logits, target, edge, ties, top, scale, vocab, BLOCK)
    tl.store(tokens + row, token)


@triton.jit
def _load(logits, at, vocab):
    return tl.load(logits + at, mask=at < vocab, other=float("-inf")).to(tl.float32)


@triton.jit
def _key(x):
    """An int32 for each float32, ordered like them."""
    bits = x.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def _weight(x, top, scale):
    return (tl.exp2((x - top) * scale) * _HEAVIEST).to(tl.int64)


@triton.jit
def _weight_at(key, top, scale):
    """The weight of the tokens whose logits have this key."""
    bits = key.to(tl.int32)
    bits = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return _weight(bits.to(tl.float32, bitcast=True), top, scale)


@triton.jit
def _above(logits, key, top, scale, vocab, WEIGHED: tl.constexpr, BLOCK: tl.constexpr):
    """The number, or if WEIGHED the weight, of the tokens above `key`."""
    amounts = tl.zeros([BLOCK], tl.int64)
    for start in range(0, vocab, BLOCK):
        at = start + tl.arange(0, BLOCK)
        x = _load(logits, at, vocab)
        amounts += tl.where(_key(x) > key, _amount(x, at < vocab, top, scale, WEIGHED), 0)
    return tl.sum(amounts, 0)


@triton.jit
def _amount(x, inside, top, scale, WEIGHED: tl.constexpr):
    return _weight(x, top, scale) if WEIGHED else inside.to(tl.int64)


@triton.jit
def _edge(logits, low, high, wanted, top, scale, vocab, WEIGHED: tl.constexpr, BLOCK: tl.constexpr):
    """The highest key in low..high from which upwards `wanted` tokens, or so much weight, remain.

    All from `low` upwards are enough, those above `high` are not. Three keys between them are tried at once.
    """
    while low < high:
        width = high - low
        first = low + (width + 3) // 4
        second = low + (width + 1) // 2
        third = low + (3 * width + 3) // 4
        from_first = tl.zeros([BLOCK], tl.int64)
        from_second = tl.zeros([BLOCK], tl.int64)
        from_third = tl.zeros([BLOCK], tl.int64)
        for start in range(0, vocab, BLOCK):
            at = start + tl.arange(0, BLOCK)
            x = _load(logits, at, vocab)
            keys = _key(x)
            amount = _amount(x, at < vocab, top, scale, WEIGHED)
            from_first += tl.where(keys >= first, amount, 0)
            from_second += tl.where(keys >= second, amount, 0)
            from_third += tl.where(keys >= third, amount, 0)
        enough1 = tl.sum(from_first, 0) >= wanted
        enough2 = tl.sum(from_second, 0) >= wanted
        enough3 = tl.sum(from_third, 0) >= wanted
        high = tl.where(enough3, high, tl.where(enough2, third, tl.where(enough1, second, first)) - 1)
        low = tl.where(enough3, third, tl.where(enough2, second, tl.where(enough1, first, low)))
    return low


@triton.jit
def _find(logits, target, edge, ties, top, scale, vocab, BLOCK: tl.constexpr):
    """The first token up to which the kept tokens weigh more than `target`."""
    token = tl.full([], 0, tl.int64)
    weight = tl.full([], 0, tl.int64)
    seen = tl.full([], 0, tl.int64)
    for start in range(0, vocab, BLOCK):
        x = _load(logits, start + tl.arange(0, BLOCK), vocab)
        keys = _key(x)
        tied = (keys == edge).to(tl.int64)
        rank = seen + tl.cumsum(tied, 0)
        kept = (keys > edge) | ((tied > 0) & (rank <= ties))
        weights = tl.where(kept, _weight(x, top, scale), 0)
        up_to = weight + tl.cumsum(weights, 0)
        token += tl.sum((up_to <= target).to(tl.int64), 0)
        weight += tl.sum(weights, 0)
        seen += tl.sum(tied, 0)
    return token


@triton.jit
def _uniform(seed, position):
    """See `weft.kernels.sampling.uniform`."""
    mixed = _split_mix(_split_mix(seed.to(tl.uint64)) + position.to(tl.uint64))
    return ((mixed >> 32).to(tl.float64) + 0.5) / 4294967296.0


@triton.jit
def _split_mix(state):
    state = state + 0x9E3779B97F4A7C15
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB
    return state ^ (state >> 31)
