"""Decode attention: one query a sequence, its keys split over programs, the parts merged by log-sum-exp.

Flash-decoding (Dao et al., 2023) with all query heads of a KV head in one program, so that each key is read
once. Which keys a program reads is decided on the device (`plan_decode`), so that the grid depends on the
shapes alone.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from weft.kernels.decode import DecodePlan
from weft.kernels.shared_prefix import SharedPlan
from weft.kernels.tables import KVTable, Rotary

from .common import cap, dot, key_block, key_slots, load_rows, processors, rotate, rotation, scales
from .merge import is_whole, merge_parts
from .shared import attend_shared

__all__ = ["decode_attention", "plan_decode"]

_GRAIN = 128  # keys: what work items are cut in multiples of
_PROGRAMS_A_PROCESSOR = 8  # wanted, to even out the last wave


def plan_decode(
    lengths: torch.Tensor,
    rows: torch.Tensor,
    *,
    kv_heads: int,
    window: int | None = None,
    shared: SharedPlan | None = None,
) -> DecodePlan:
    """See `weft.kernels.decode.plan_decode`."""
    batch = len(lengths)
    extra = triton.cdiv(processors(lengths.device) * _PROGRAMS_A_PROCESSOR, kv_heads)
    lows, items, first_item, chunk = (
        torch.empty(size, dtype=torch.int32, device=lengths.device)
        for size in (batch, batch + extra, batch + 1, 1)
    )
    block = 64
    _plan[(triton.cdiv(batch + extra, block),)](
        lengths,
        None if shared is None else shared.starts,
        lows,
        items,
        first_item,
        chunk,
        batch,
        batch + extra,
        extra,
        WINDOW=0 if window is None else window,
        BLOCK=block,
        BLOCK_B=triton.next_power_of_2(batch),
        GRAIN=_GRAIN,
    )
    return DecodePlan(rows, lengths, window, shared, lows, items, first_item, chunk)


@triton.jit(do_not_specialize=["lengths", "starts", "batch", "capacity", "extra"])
def _plan(
    lengths,
    starts,
    lows,
    items,
    first_item,
    chunk,
    batch,
    capacity,
    extra,
    WINDOW: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_B: tl.constexpr,
    GRAIN: tl.constexpr,
):
    """Each program maps BLOCK work items to their sequences; the first one writes the rest, too."""
    b = tl.arange(0, BLOCK_B)
    length = tl.load(lengths + b, mask=b < batch, other=0)
    low = tl.zeros([BLOCK_B], tl.int32)
    if starts is not None:
        low = tl.load(starts + b, mask=b < batch, other=0)
    if WINDOW > 0:
        low = tl.maximum(low, length - WINDOW)
    keys = tl.maximum(length - low, 0)
    size = tl.maximum(tl.cdiv(tl.cdiv(tl.sum(keys), extra), GRAIN), 1) * GRAIN
    parts = tl.cdiv(keys, size)
    end = tl.cumsum(parts)
    item = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    sequence = tl.sum((end[None, :] <= item[:, None]).to(tl.int32), axis=1)
    sequence = tl.where(item < tl.sum(parts), sequence, -1)
    tl.store(items + item, sequence, mask=item < capacity)
    if tl.program_id(0) == 0:
        tl.store(lows + b, low, mask=b < batch)
        tl.store(first_item + b, end - parts, mask=b < batch)
        tl.store(first_item + batch, tl.sum(parts))
        tl.store(chunk, size)


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
    """See `weft.kernels.decode.decode_attention`."""
    factor, squash = scales(scale, softcap)
    heads, head_dim = q.shape[1:]
    kv_heads = k_pool.shape[1]
    shared_parts = 0 if plan.shared is None else plan.shared.capacity
    count = len(plan.items) + shared_parts
    parts = torch.empty(count, heads, head_dim, dtype=torch.float32, device=q.device)
    sums = torch.empty(count, heads, dtype=torch.float32, device=q.device)
    out = torch.empty_like(q)
    group = heads // kv_heads
    _decode[(kv_heads, len(plan.items))](
        q,
        k_pool,
        v_pool,
        table.pages,
        table.positions,
        None if rotary is None else rotary.cos,
        None if rotary is None else rotary.sin,
        plan.rows,
        plan.lows,
        plan.lengths,
        plan.items,
        plan.first_item,
        plan.chunk,
        None if plan.shared is None else plan.shared.first_part,
        out,
        parts,
        sums,
        factor,
        squash,
        q.stride(0),
        k_pool.stride(0),
        table.pages.stride(0),
        0 if table.positions is None else table.positions.stride(0),
        HEADS=heads,
        GROUP=group,
        HEAD_DIM=head_dim,
        BLOCK_M=max(16, triton.next_power_of_2(group)),
        BLOCK_D=triton.next_power_of_2(head_dim),
        BLOCK_H=max(16, triton.next_power_of_2(head_dim // 2)),
        PAGE=table.page_size,
        ROTATE=rotary is not None,
        **_tile(k_pool, table, rotary),
    )
    if plan.shared is not None:
        attend_shared(
            q, k_pool, v_pool, table, plan, parts, sums, factor=factor, squash=squash, rotary=rotary
        )
    merge_parts(parts, sums, plan, out)
    return out


def _tile(k_pool: torch.Tensor, table: KVTable, rotary: Rotary | None) -> dict[str, int]:
    """Keys a step, warps and pipeline stages: the fastest of those tried on an H100."""
    block = key_block(k_pool)
    if rotary is None or block < 64:
        return {"BLOCK_N": block, "num_warps": 4, "num_stages": 3}
    if table.positions is None:
        return {"BLOCK_N": 32, "num_warps": 2, "num_stages": 5}
    return {"BLOCK_N": 32, "num_warps": 4, "num_stages": 3}


@triton.jit(do_not_specialize=["rows", "lengths", "lows", "items", "first_item", "first_part"])
def _decode(
    q,
    k_pool,
    v_pool,
    pages,
    positions,
    cos,
    sin,
    rows,
    lows,
    lengths,
    items,
    first_item,
    chunk,
    first_part,
    out,
    parts,
    sums,
    scale,
    squash,
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
    PAGE: tl.constexpr,
    ROTATE: tl.constexpr,
):
    """One part of a sequence's keys for one KV head: the partial output [GROUP, HEAD_DIM] and its log2-sum.

    A part that is all of a sequence is its output.

    ROTATE: keys and query are unrotated. With positions of their own, keys are turned by them. Otherwise
    the keys of a tile are turned by 0..BLOCK_N-1, tables that stay in registers, and the query by its
    distance to the first of them, which gives the same products.
    """
    kv_head = tl.program_id(0)
    item = tl.program_id(1)
    sequence = tl.load(items + item)
    if sequence < 0:
        return
    size = tl.load(chunk)
    length = tl.load(lengths + sequence)
    first = tl.load(first_item + sequence)
    low = tl.load(lows + sequence) + (item - first) * size
    high = tl.minimum(low + size, length)
    row = tl.load(rows + sequence).to(tl.int64)
    pages += row * page_stride

    HALF: tl.constexpr = HEAD_DIM // 2
    g = tl.arange(0, BLOCK_M)
    j = tl.arange(0, BLOCK_N)
    d = tl.arange(0, BLOCK_D)
    i = tl.arange(0, BLOCK_H)
    d_in = d < HEAD_DIM
    i_in = i < HALF
    head = kv_head * GROUP + g
    q += sequence.to(tl.int64) * q_stride
    k_pool += kv_head * HEAD_DIM
    v_pool += kv_head * HEAD_DIM
    if ROTATE:
        q_mask = (g < GROUP)[:, None] & i_in[None, :]
        q1 = tl.load(q + head[:, None] * HEAD_DIM + i[None, :], mask=q_mask, other=0.0)
        q2 = tl.load(q + head[:, None] * HEAD_DIM + HALF + i[None, :], mask=q_mask, other=0.0)
        if positions is None:
            c, s = rotation(cos, sin, j, j < BLOCK_N, HALF, BLOCK_H)
        else:
            positions += row * position_stride
            at = tl.load(positions + length - 1) * HALF + i
            q1, q2 = rotate(
                q1,
                q2,
                tl.load(cos + at, mask=i_in, other=0.0)[None, :],
                tl.load(sin + at, mask=i_in, other=0.0)[None, :],
            )
    else:
        q_mask = (g < GROUP)[:, None] & d_in[None, :]
        qs = tl.load(q + head[:, None] * HEAD_DIM + d[None, :], mask=q_mask, other=0.0)

    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    part = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for start in range(low, high, BLOCK_N):
        n = start + j
        inside = n < high
        slots = key_slots(pages, n, inside, PAGE) * slot_stride
        if ROTATE:
            k1 = load_rows(k_pool, slots, i, inside, HALF, True)
            k2 = load_rows(k_pool + HALF, slots, i, inside, HALF, True)
            if positions is None:
                at = (length - 1 - start) * HALF + i
                turned1, turned2 = rotate(
                    q1,
                    q2,
                    tl.load(cos + at, mask=i_in, other=0.0)[None, :],
                    tl.load(sin + at, mask=i_in, other=0.0)[None, :],
                )
            else:
                turned1, turned2 = q1, q2
                c, s = rotation(cos, sin, tl.load(positions + n, mask=inside, other=0), inside, HALF, BLOCK_H)
            r1, r2 = rotate(k1, k2, c, s)
            scores = dot(turned1.to(k1.dtype), tl.trans(r1.to(k1.dtype)))
            scores += dot(turned2.to(k1.dtype), tl.trans(r2.to(k1.dtype)))
        else:
            k = load_rows(k_pool, slots, d, inside, HEAD_DIM, True)
            scores = dot(qs, tl.trans(k))
        v = load_rows(v_pool, slots, d, inside, HEAD_DIM, True)
        scores = tl.where(inside[None, :], cap(scores, squash) * scale, float("-inf"))
        highest = tl.maximum(top, tl.max(scores, 1))
        weights = tl.exp2(scores - highest[:, None])
        shrink = tl.exp2(top - highest)
        total = total * shrink + tl.sum(weights, 1)
        part = part * shrink[:, None] + dot(weights.to(v.dtype), v)
        top = highest

    part = part / total[:, None]
    mask = (g < GROUP)[:, None] & d_in[None, :]
    if is_whole(first_item, first_part, sequence):
        of_sequence = sequence.to(tl.int64) * HEADS + head
        tl.store(out + of_sequence[:, None] * HEAD_DIM + d[None, :], part, mask=mask)
    else:
        of_item = item.to(tl.int64) * HEADS + head
        tl.store(parts + of_item[:, None] * HEAD_DIM + d[None, :], part, mask=mask)
        tl.store(sums + of_item, top + tl.log2(total), mask=g < GROUP)
