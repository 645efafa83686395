"""Extend attention: FlashAttention-2 (Dao, 2023) over slots; a tile has all query heads of a KV head."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from weft.kernels.extend import ExtendBatch
from weft.kernels.tables import KVTable, Rotary

from .common import cap, dot, key_block, key_slots, load_rows, processors, rotate, rotation, scales
from .merge import merge_splits

__all__ = ["extend_attention"]

_MIN_SPLIT = 512  # keys
_MAX_SPLITS = 32


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
    """See `weft.kernels.extend.extend_attention`."""
    factor, squash = scales(scale, softcap)
    queries, heads, head_dim = q.shape
    kv_heads = k_pool.shape[1]
    group = heads // kv_heads
    sequences = len(batch.rows)
    usual = triton.next_power_of_2(triton.cdiv(queries, sequences) * group)
    if usual > 16:  # the fewer variants there are, the fewer are compiled
        usual = max(usual, 64)
    wide = q.element_size() * head_dim > 256
    most = 128 if rotary is None else 256  # more rows share the rotation of their keys
    if wide or q.element_size() > 2:
        most = 64
    block_m = max(16, min(usual, most), triton.next_power_of_2(group))
    tiles = triton.cdiv(queries, block_m // group) + sequences
    splits = _splits(q.device, tiles * kv_heads, table.capacity if window is None else window)
    out = torch.empty_like(q)
    parts = sums = None
    if splits > 1:
        parts = torch.empty(splits, *q.shape, dtype=torch.float32, device=q.device)
        sums = torch.empty(splits, queries, heads, dtype=torch.float32, device=q.device)
    _extend[(kv_heads, tiles, splits)](
        q,
        k_pool,
        v_pool,
        table.pages,
        table.positions,
        None if rotary is None else rotary.cos,
        None if rotary is None else rotary.sin,
        batch.rows,
        batch.starts,
        batch.positions,
        out,
        parts,
        sums,
        factor,
        squash,
        queries,
        sequences,
        splits,
        q.stride(0),
        k_pool.stride(0),
        table.pages.stride(0),
        0 if table.positions is None else table.positions.stride(0),
        HEADS=heads,
        GROUP=group,
        HEAD_DIM=head_dim,
        BLOCK_M=block_m,
        BLOCK_N=key_block(k_pool),
        BLOCK_D=triton.next_power_of_2(head_dim),
        BLOCK_H=max(16, triton.next_power_of_2(head_dim // 2)),
        BLOCK_B=max(triton.next_power_of_2(sequences), 64),
        PAGE=table.page_size,
        WINDOW=0 if window is None else window,
        SPLIT=splits > 1,
        ROTATE=rotary is not None,
        num_warps=8 if block_m >= 128 else 4,
        num_stages=2 if wide else 3,
        maxnreg=128 if block_m == 128 and rotary is None else None,  # two programs fit a processor
    )
    if parts is not None and sums is not None:
        merge_splits(parts, sums, out)
    return out


def _splits(device: torch.device, programs: int, keys: int) -> int:
    """Into how many parts the keys of each tile are cut, so that few tiles fill the device, too."""
    return max(1, min(2 * processors(device) // programs, keys // _MIN_SPLIT, _MAX_SPLITS))


@triton.jit(do_not_specialize=["rows", "starts", "query_positions", "queries", "sequences", "splits"])
def _extend(
    q,
    k_pool,
    v_pool,
    pages,
    positions,
    cos,
    sin,
    rows,
    starts,
    query_positions,
    out,
    parts,
    sums,
    scale,
    squash,
    queries,
    sequences,
    splits,
    q_stride,
    slot_stride,
    page_stride,
    position_stride,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_B: tl.constexpr,
    PAGE: tl.constexpr,
    WINDOW: tl.constexpr,
    SPLIT: tl.constexpr,
    ROTATE: tl.constexpr,
):
    """One tile of queries of one sequence, for one KV head and one split of the keys.

    What changes from step to step is no constant, so that requests never wait for a compiler.
    """
    QUERIES: tl.constexpr = BLOCK_M // GROUP
    kv_head = tl.program_id(0)
    # The last tiles see the most keys and go first. A sequence is found by counting those that end before.
    b = tl.arange(0, BLOCK_B)
    first = tl.load(starts + b, mask=b < sequences, other=0)
    end = tl.load(starts + b + 1, mask=b < sequences, other=0)
    tiles = tl.cdiv(end - first, QUERIES)
    tile = tl.sum(tiles) - 1 - tl.program_id(1)
    if tile < 0:
        return
    sequence = tl.sum((tl.cumsum(tiles) <= tile).to(tl.int32))
    tile -= tl.sum(tl.where(b < sequence, tiles, 0))
    first_query = tl.load(starts + sequence) + tile * QUERIES
    end_query = tl.load(starts + sequence + 1)
    row = tl.load(rows + sequence).to(tl.int64)
    pages += row * page_stride

    HALF: tl.constexpr = HEAD_DIM // 2
    m = tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    i = tl.arange(0, BLOCK_H)
    query = first_query + m // GROUP
    head = kv_head * GROUP + m % GROUP
    present = (m < QUERIES * GROUP) & (query < end_query)
    position = tl.load(query_positions + query, mask=present, other=-1)
    highest = tl.max(position, 0)
    lowest = tl.min(tl.where(present, position, highest), 0)

    q_at = query.to(tl.int64) * q_stride + head * HEAD_DIM
    k_pool += kv_head * HEAD_DIM
    v_pool += kv_head * HEAD_DIM
    if ROTATE:
        turn = position
        if positions is not None:
            positions += row * position_stride
            turn = tl.load(positions + position, mask=present, other=0)
        q_mask = present[:, None] & (i < HALF)[None, :]
        q1 = tl.load(q + q_at[:, None] + i[None, :], mask=q_mask, other=0.0)
        q2 = tl.load(q + q_at[:, None] + HALF + i[None, :], mask=q_mask, other=0.0)
        c, s = rotation(cos, sin, turn, present, HALF, BLOCK_H)
        r1, r2 = rotate(q1, q2, c, s)
        q1 = r1.to(q1.dtype)
        q2 = r2.to(q2.dtype)
    else:
        q1 = tl.load(
            q + q_at[:, None] + d[None, :], mask=present[:, None] & (d < HEAD_DIM)[None, :], other=0.0
        )
        q2 = None

    # Keys low..high-1 are seen by some query of the tile, full_low..full_high-1 by all of them.
    low = 0
    full_low = 0
    if WINDOW > 0:
        low = tl.maximum(lowest - WINDOW + 1, 0) // BLOCK_N * BLOCK_N
        full_low = tl.cdiv(tl.maximum(highest - WINDOW + 1, 0), BLOCK_N) * BLOCK_N
    high = highest + 1
    full_high = tl.maximum((lowest + 1) // BLOCK_N * BLOCK_N, low)
    if SPLIT:
        size = tl.cdiv(tl.cdiv(high - low, splits), BLOCK_N) * BLOCK_N
        low += tl.program_id(2) * size
        high = tl.minimum(low + size, high)
        full_high = tl.minimum(tl.maximum(full_high, low), high)
    full_low = tl.minimum(tl.maximum(full_low, low), full_high)

    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    if WINDOW > 0:
        top, total, acc = _attend(
            low, full_low, True, top, total, acc, q1, q2, k_pool, v_pool, pages, positions, cos, sin,
            position, high, scale, squash, slot_stride,
            HEAD_DIM, BLOCK_N, BLOCK_D, BLOCK_H, PAGE, WINDOW, ROTATE,
        )  # fmt: skip
    top, total, acc = _attend(
        full_low, full_high, False, top, total, acc, q1, q2, k_pool, v_pool, pages, positions, cos, sin,
        position, high, scale, squash, slot_stride,
        HEAD_DIM, BLOCK_N, BLOCK_D, BLOCK_H, PAGE, WINDOW, ROTATE,
    )  # fmt: skip
    top, total, acc = _attend(
        full_high, high, True, top, total, acc, q1, q2, k_pool, v_pool, pages, positions, cos, sin,
        position, high, scale, squash, slot_stride,
        HEAD_DIM, BLOCK_N, BLOCK_D, BLOCK_H, PAGE, WINDOW, ROTATE,
    )  # fmt: skip

    mask = present[:, None] & (d < HEAD_DIM)[None, :]
    at = query.to(tl.int64) * HEADS + head
    safe = tl.where(total > 0, total, 1.0)
    acc = acc / safe[:, None]
    if SPLIT:
        at += tl.program_id(2).to(tl.int64) * queries * HEADS
        tl.store(parts + at[:, None] * HEAD_DIM + d[None, :], acc, mask=mask)
        tl.store(sums + at, top + tl.log2(safe), mask=present)
    else:
        tl.store(out + at[:, None] * HEAD_DIM + d[None, :], acc, mask=mask)


@triton.jit
def _attend(
    low,
    high,
    MASKED: tl.constexpr,
    top,
    total,
    acc,
    q1,
    q2,
    k_pool,
    v_pool,
    pages,
    positions,
    cos,
    sin,
    position,
    end,
    scale,
    squash,
    slot_stride,
    HEAD_DIM: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_H: tl.constexpr,
    PAGE: tl.constexpr,
    WINDOW: tl.constexpr,
    ROTATE: tl.constexpr,
):
    """Online softmax over the keys low..high-1, which all queries see unless MASKED."""
    HALF: tl.constexpr = HEAD_DIM // 2
    j = tl.arange(0, BLOCK_N)
    d = tl.arange(0, BLOCK_D)
    i = tl.arange(0, BLOCK_H)
    for start in range(low, high, BLOCK_N):
        n = start + j
        inside = n < end
        slots = key_slots(pages, n, inside, PAGE) * slot_stride
        if ROTATE:
            k1 = load_rows(k_pool, slots, i, inside, HALF, MASKED)
            k2 = load_rows(k_pool + HALF, slots, i, inside, HALF, MASKED)
            turn = n
            if positions is not None:
                turn = tl.load(positions + n, mask=inside, other=0)
            c, s = rotation(cos, sin, turn, inside, HALF, BLOCK_H)
            r1, r2 = rotate(k1, k2, c, s)
            scores = dot(q1, tl.trans(r1.to(k1.dtype))) + dot(q2, tl.trans(r2.to(k1.dtype)))
        else:
            k = load_rows(k_pool, slots, d, inside, HEAD_DIM, MASKED)
            scores = dot(q1, tl.trans(k))
        scores = cap(scores, squash)
        if MASKED:
            visible = n[None, :] <= position[:, None]
            if WINDOW > 0:
                visible = visible & (n[None, :] > position[:, None] - WINDOW)
            scores = tl.where(visible, scores, float("-inf"))
        highest = tl.maximum(top, tl.max(scores, 1) * scale)
        safe = highest
        if MASKED:  # a query may have seen no key yet
            safe = tl.where(highest > float("-inf"), highest, 0.0)
        weights = tl.exp2(scores * scale - safe[:, None])
        shrink = tl.exp2(top - safe)
        total = total * shrink + tl.sum(weights, 1)
        acc = acc * shrink[:, None]
        v = load_rows(v_pool, slots, d, inside, HEAD_DIM, MASKED)
        acc += dot(weights.to(v.dtype), v)
        top = highest
    return top, total, acc
