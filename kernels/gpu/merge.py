"""Merges partial attention outputs by their log-sum-exp."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from weft.kernels.decode import DecodePlan

__all__ = ["merge_parts", "merge_splits"]

_BLOCK_P = 16  # parts that are loaded at once


def merge_parts(q: torch.Tensor, parts: torch.Tensor, sums: torch.Tensor, plan: DecodePlan) -> torch.Tensor:
    """The output [batch, heads, head_dim], like `q`, of a decode from its parts.

    `parts` is float32 [count, heads, head_dim], `sums` [count, heads]: the log2 of the sum of exponentials.
    """
    out = torch.empty_like(q)
    shared = plan.shared
    _merge[(q.shape[1], len(q))](
        parts,
        sums,
        plan.first_item,
        None if shared is None else shared.first_part,
        None if shared is None else shared.parts,
        out,
        len(plan.items),
        HEADS=q.shape[1],
        HEAD_DIM=q.shape[2],
        BLOCK_P=_BLOCK_P,
        BLOCK_D=triton.next_power_of_2(q.shape[2]),
        num_warps=2,
    )
    return out


@triton.jit(do_not_specialize=["first_item", "first_part", "part_rows", "own_parts"])
def _merge(
    parts,
    sums,
    first_item,
    first_part,
    part_rows,
    out,
    own_parts,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One head of one sequence: its own parts, which lie in a row, then those of its shared prefixes."""
    head = tl.program_id(0)
    sequence = tl.program_id(1)
    d = tl.arange(0, BLOCK_D)
    p = tl.arange(0, BLOCK_P)
    top = tl.full([1], float("-inf"), tl.float32)
    total = tl.zeros([1], tl.float32)
    merged = tl.zeros([BLOCK_D], tl.float32)
    first = tl.load(first_item + sequence)
    end = tl.load(first_item + sequence + 1)
    for start in range(first, end, BLOCK_P):
        top, total, merged = _add(
            parts, sums, start + p, start + p < end, head, d, top, total, merged, HEADS, HEAD_DIM
        )
    if part_rows is not None:
        first = tl.load(first_part + sequence)
        end = tl.load(first_part + sequence + 1)
        for start in range(first, end, BLOCK_P):
            inside = start + p < end
            at = own_parts + tl.load(part_rows + start + p, mask=inside, other=0)
            top, total, merged = _add(parts, sums, at, inside, head, d, top, total, merged, HEADS, HEAD_DIM)
    merged = merged / tl.where(total > 0, total, 1.0)  # 0 for a sequence without keys
    tl.store(out + (sequence.to(tl.int64) * HEADS + head) * HEAD_DIM + d, merged, mask=d < HEAD_DIM)


def merge_splits(parts: torch.Tensor, sums: torch.Tensor, out: torch.Tensor) -> None:
    """Write into `out` [tokens, heads, head_dim] the merged `parts` [splits, tokens, heads, head_dim]."""
    splits, tokens, heads, head_dim = parts.shape
    _merge_splits[(heads, tokens)](
        parts,
        sums,
        out,
        tokens,
        splits,
        HEADS=heads,
        HEAD_DIM=head_dim,
        BLOCK_P=_BLOCK_P,
        BLOCK_D=triton.next_power_of_2(head_dim),
        num_warps=2,
    )


@triton.jit(do_not_specialize=["tokens", "splits"])
def _merge_splits(
    parts,
    sums,
    out,
    tokens,
    splits,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    head = tl.program_id(0)
    token = tl.program_id(1)
    d = tl.arange(0, BLOCK_D)
    p = tl.arange(0, BLOCK_P)
    top = tl.full([1], float("-inf"), tl.float32)
    total = tl.zeros([1], tl.float32)
    merged = tl.zeros([BLOCK_D], tl.float32)
    for start in range(0, splits, BLOCK_P):
        split = start + p
        at = split * tokens + token
        top, total, merged = _add(
            parts, sums, at, split < splits, head, d, top, total, merged, HEADS, HEAD_DIM
        )
    tl.store(out + (token.to(tl.int64) * HEADS + head) * HEAD_DIM + d, merged / total, mask=d < HEAD_DIM)


@triton.jit
def _add(
    parts,
    sums,
    at,
    inside,
    head,
    d,
    top,
    total,
    merged,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
):
    """Add the parts `at`, where `inside`, to a merge: its maximum [1], weight [1] and output [BLOCK_D]."""
    at = at.to(tl.int64) * HEADS + head
    exponents = tl.load(sums + at, mask=inside, other=float("-inf"))
    seen = exponents > float("-inf")  # a part without visible keys is left unwritten
    part = tl.load(
        parts + at[:, None] * HEAD_DIM + d[None, :],
        mask=seen[:, None] & (d < HEAD_DIM)[None, :],
        other=0.0,
    )
    highest = tl.maximum(top, tl.max(exponents, 0))
    safe = tl.where(highest > float("-inf"), highest, 0.0)
    weights = tl.exp2(exponents - safe)
    shrink = tl.exp2(top - safe)
    return (
        highest,
        total * shrink + tl.sum(weights, 0),
        merged * shrink + tl.sum(part * weights[:, None], 0),
    )
