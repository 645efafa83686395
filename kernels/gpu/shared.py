"""Attention of several sequences' queries to a span of keys that they share."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from weft.kernels.decode import DecodePlan
from weft.kernels.tables import KVTable, Rotary

from .common import cap, dot, key_block, key_slots, load_rows, rotate, rotation

__all__ = ["attend_shared"]


def attend_shared(
    q: torch.Tensor,
    k_pool: torch.Tensor,
    v_pool: torch.Tensor,
    table: KVTable,
    plan: DecodePlan,
    parts: torch.Tensor,
    sums: torch.Tensor,
    *,
    factor: float,
    squash: float | None,
    rotary: Rotary | None,
) -> None:
    """Write the parts of the plan's shared spans, which lie behind those of its own work items.

    `factor` and `squash` are the `scales` of the scores.
    """
    shared = plan.shared
    assert shared is not None
    heads, head_dim = q.shape[1:]
    kv_heads = k_pool.shape[1]
    group = heads // kv_heads
    wide = head_dim * q.element_size() > 512  # tiles that fill the registers of four warps
    _shared[(kv_heads, len(shared.items))](
        q,
        k_pool,
        v_pool,
        table.pages,
        table.positions,
        None if rotary is None else rotary.cos,
        None if rotary is None else rotary.sin,
        plan.rows,
        plan.lengths,
        shared.items,
        shared.members,
        parts[len(plan.items) :],
        sums[len(plan.items) :],
        factor,
        squash,
        q.stride(0),
        k_pool.stride(0),
        table.pages.stride(0),
        0 if table.positions is None else table.positions.stride(0),
        HEADS=heads,
        GROUP=group,
        HEAD_DIM=head_dim,
        BLOCK_M=max(16, triton.next_power_of_2(shared.queries * group)),
        BLOCK_N=key_block(k_pool),
        BLOCK_D=triton.next_power_of_2(head_dim),
        BLOCK_H=max(16, triton.next_power_of_2(head_dim // 2)),
        PAGE=table.page_size,
        WINDOW=0 if plan.window is None else plan.window,
        ROTATE=rotary is not None,
        num_warps=8 if wide else 4,
        num_stages=1 if wide else 3,
    )


@triton.jit(do_not_specialize=["rows", "lengths", "items", "members"])
def _shared(
    q,
    k_pool,
    v_pool,
    pages,
    positions,
    cos,
    sin,
    rows,
    lengths,
    items,
    members,
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
    WINDOW: tl.constexpr,
    ROTATE: tl.constexpr,
):
    """Rows are the queries of an item's members, all heads of one KV head."""
    kv_head = tl.program_id(0)
    items += tl.program_id(1) * 6
    leader = tl.load(items)
    low = tl.load(items + 1)
    high = tl.load(items + 2)
    first_member = tl.load(items + 3)
    count = tl.load(items + 4)
    first_part = tl.load(items + 5)
    if count == 0:
        return
    leader_row = tl.load(rows + leader).to(tl.int64)
    pages += leader_row * page_stride

    HALF: tl.constexpr = HEAD_DIM // 2
    m = tl.arange(0, BLOCK_M)
    j = tl.arange(0, BLOCK_N)
    d = tl.arange(0, BLOCK_D)
    i = tl.arange(0, BLOCK_H)
    d_in = d < HEAD_DIM
    i_in = i < HALF
    member = m // GROUP
    head = kv_head * GROUP + m % GROUP
    present = member < count
    sequence = tl.load(members + first_member + member, mask=present, other=0)
    position = tl.load(lengths + sequence, mask=present, other=1) - 1
    q_at = sequence.to(tl.int64) * q_stride + head * HEAD_DIM
    k_pool += kv_head * HEAD_DIM
    v_pool += kv_head * HEAD_DIM
    if ROTATE:
        q_mask = present[:, None] & i_in[None, :]
        q1 = tl.load(q + q_at[:, None] + i[None, :], mask=q_mask, other=0.0)
        q2 = tl.load(q + q_at[:, None] + HALF + i[None, :], mask=q_mask, other=0.0)
        q_turn = position
        if positions is not None:
            q_row = tl.load(rows + sequence, mask=present, other=0).to(tl.int64)
            q_turn = tl.load(positions + q_row * position_stride + position, mask=present, other=0)
            positions += leader_row * position_stride
        q_cos, q_sin = rotation(cos, sin, q_turn, present, HALF, BLOCK_H)
        turned1, turned2 = rotate(q1, q2, q_cos, q_sin)
        q1 = turned1.to(q1.dtype)
        q2 = turned2.to(q2.dtype)
    else:
        qs = tl.load(q + q_at[:, None] + d[None, :], mask=present[:, None] & d_in[None, :], other=0.0)

    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    out = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for start in range(low, high, BLOCK_N):
        n = start + j
        inside = n < high
        slots = key_slots(pages, n, inside, PAGE) * slot_stride
        if ROTATE:
            k1 = load_rows(k_pool, slots, i, inside, HALF, True)
            k2 = load_rows(k_pool + HALF, slots, i, inside, HALF, True)
            k_turn = n
            if positions is not None:
                k_turn = tl.load(positions + n, mask=inside, other=0)
            c, s = rotation(cos, sin, k_turn, inside, HALF, BLOCK_H)
            r1, r2 = rotate(k1, k2, c, s)
            scores = dot(q1, tl.trans(r1.to(k1.dtype))) + dot(q2, tl.trans(r2.to(k1.dtype)))
        else:
            k = load_rows(k_pool, slots, d, inside, HEAD_DIM, True)
            scores = dot(qs, tl.trans(k))
        v = load_rows(v_pool, slots, d, inside, HEAD_DIM, True)
        visible = inside[None, :]
        if WINDOW > 0:
            visible = visible & (n[None, :] > position[:, None] - WINDOW)
        scores = tl.where(visible, cap(scores, squash) * scale, float("-inf"))
        highest = tl.maximum(top, tl.max(scores, 1))
        safe = highest
        if WINDOW > 0:  # a query may see none of these keys
            safe = tl.where(highest > float("-inf"), highest, 0.0)
        weights = tl.exp2(scores - safe[:, None])
        shrink = tl.exp2(top - safe)
        total = total * shrink + tl.sum(weights, 1)
        out = out * shrink[:, None] + dot(weights.to(v.dtype), v)
        top = highest

    at = (first_part + member).to(tl.int64) * HEADS + head
    tl.store(
        parts + at[:, None] * HEAD_DIM + d[None, :],
        out / tl.where(total > 0, total, 1.0)[:, None],
        mask=present[:, None] & d_in[None, :],
    )
    tl.store(sums + at, top + tl.log2(tl.where(total > 0, total, 1.0)), mask=present)
