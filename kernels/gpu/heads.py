"""Norm, rotation and storage of a token's heads in one pass; the heads are run in blocks."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from weft.kernels.tables import Rotary

__all__ = ["store_heads"]

_BLOCK_R = 16  # heads a program


def store_heads(
    qkv: torch.Tensor,
    k_pool: torch.Tensor,
    v_pool: torch.Tensor,
    slots: torch.Tensor,
    *,
    qk_norm: torch.Tensor | None = None,
    eps: float = 0.0,
    rotary: Rotary | None = None,
    positions: torch.Tensor | None = None,
) -> torch.Tensor:
    """See `weft.kernels.heads.store_heads`."""
    qkv = qkv.contiguous()
    tokens, rows, head_dim = qkv.shape
    kv_heads = k_pool.shape[1]
    heads = rows - 2 * kv_heads
    q = torch.empty(tokens, heads, head_dim, dtype=qkv.dtype, device=qkv.device)
    _store_heads[(tokens, triton.cdiv(rows, _BLOCK_R))](
        qkv,
        q,
        k_pool,
        v_pool,
        slots,
        None if qk_norm is None else qk_norm.contiguous(),
        None if rotary is None else rotary.cos,
        None if rotary is None else rotary.sin,
        positions,
        eps,
        HEADS=heads,
        KV_HEADS=kv_heads,
        HEAD_DIM=head_dim,
        BLOCK_R=_BLOCK_R,
        BLOCK_H=triton.next_power_of_2(head_dim // 2),
        num_warps=4,
    )
    return q


@triton.jit
def _store_heads(
    qkv,
    q,
    k_pool,
    v_pool,
    slots,
    qk_norm,
    cos,
    sin,
    positions,
    eps,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    HALF: tl.constexpr = HEAD_DIM // 2
    ROWS: tl.constexpr = HEADS + 2 * KV_HEADS
    token = tl.program_id(0).to(tl.int64)
    row = tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R)
    i = tl.arange(0, BLOCK_H)
    i_in = i < HALF
    mask = (row < ROWS)[:, None] & i_in[None, :]
    at = (token * ROWS + row)[:, None] * HEAD_DIM + i[None, :]
    raw1 = tl.load(qkv + at, mask=mask, other=0.0)
    raw2 = tl.load(qkv + at + HALF, mask=mask, other=0.0)
    x1 = raw1.to(tl.float32)
    x2 = raw2.to(tl.float32)
    is_qk = (row < HEADS + KV_HEADS)[:, None]
    if qk_norm is not None:
        mean = (tl.sum(x1 * x1, 1) + tl.sum(x2 * x2, 1)) / HEAD_DIM
        factor = tl.rsqrt(mean + eps)[:, None]
        w_at = row[:, None] * HEAD_DIM + i[None, :]
        w1 = tl.load(qk_norm + w_at, mask=is_qk & mask, other=0.0).to(tl.float32)
        w2 = tl.load(qk_norm + w_at + HALF, mask=is_qk & mask, other=0.0).to(tl.float32)
        # rounded where torch rounds
        x1 = ((x1 * factor).to(raw1.dtype).to(tl.float32) * w1).to(raw1.dtype).to(tl.float32)
        x2 = ((x2 * factor).to(raw1.dtype).to(tl.float32) * w2).to(raw1.dtype).to(tl.float32)
    if cos is not None:
        turn = tl.load(positions + token) * HALF + i
        c = tl.load(cos + turn, mask=i_in, other=0.0)[None, :]
        s = tl.load(sin + turn, mask=i_in, other=0.0)[None, :]
        turned = x1 * c - x2 * s
        x2 = x2 * c + x1 * s
        x1 = turned
    x1 = x1.to(raw1.dtype)
    x2 = x2.to(raw1.dtype)

    is_q = (row < HEADS)[:, None] & mask
    q_at = (token * HEADS + row)[:, None] * HEAD_DIM + i[None, :]
    tl.store(q + q_at, x1, mask=is_q)
    tl.store(q + q_at + HALF, x2, mask=is_q)
    slot = tl.load(slots + token).to(tl.int64) * KV_HEADS
    is_k = is_qk & (row >= HEADS)[:, None] & mask
    k_at = (slot + row - HEADS)[:, None] * HEAD_DIM + i[None, :]
    tl.store(k_pool + k_at, x1, mask=is_k)
    tl.store(k_pool + k_at + HALF, x2, mask=is_k)
    is_v = (row >= HEADS + KV_HEADS)[:, None] & mask
    v_at = k_at - KV_HEADS * HEAD_DIM
    tl.store(v_pool + v_at, raw1, mask=is_v)
    tl.store(v_pool + v_at + HALF, raw2, mask=is_v)
