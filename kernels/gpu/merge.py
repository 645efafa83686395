"""Merges partial attention outputs by their log-sum-exp."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from weft.kernels.decode import DecodePlan

__all__ = ["is_whole", "merge_parts", "merge_splits"]

_BLOCK_P = 16  # parts that are loaded at once
_PROGRAMS = 2048  # that are enough


def merge_parts(parts: torch.Tensor, sums: torch.Tensor, plan: DecodePlan, out: torch.Tensor) -> None:
    """Write into `out` [batch, heads, head_dim] the output of a decode where it is not there as a whole.

    `parts` is float32 [count, heads, head_dim], `sums` [count, heads]: the log2 of the sum of exponentials.
    """
    shared = plan.shared
    batch, heads, head_dim = out.shape
    each = max(batch * heads // _PROGRAMS, 1)
    _merge[(triton.cdiv(heads, each), batch)](
        parts,
        sums,
        plan.first_item,
        None if shared is None else shared.first_part,
        None if shared is None else shared.parts,
        out,
        len(plan.items),
        each,
        HEADS=heads,
        HEAD_DIM=head_dim,
        BLOCK_P=_BLOCK_P,
        BLOCK_D=triton.next_power_of_2(head_dim),
        num_warps=2,
    )


@triton.jit
def is_whole(first_item, first_part, sequence):
    """Whether one work item has all keys of a sequence, so that its part is the output."""
    whole = tl.load(first_item + sequence + 1) - tl.load(first_item + sequence) == 1
    if first_part is not None:
        whole = whole & (tl.load(first_part + sequence + 1) == tl.load(first_part + sequence))
    return whole


@triton.jit(do_not_specialize=["first_item", "first_part", "part_rows", "own_parts", "each"])
def _merge(
    parts,
    sums,
    first_item,
    first_part,
    part_rows,
    out,
    own_parts,
    each,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """`each` heads of one sequence: its own parts, which lie in a row, then those of its shared prefixes."""
    sequence = tl.program_id(1)
    if is_whole(first_item, first_part, sequence):
        return
    d = tl.arange(0, BLOCK_D)
    p = tl.arange(0, BLOCK_P)
    first_head = tl.program_id(0) * each
    for head in range(first_head, tl.minimum(first_head + each, HEADS)):
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
                top, total, merged = _add(
                    parts, sums, at, inside, head, d, top, total, merged, HEADS, HEAD_DIM
                )
        merged = merged / tl.where(total > 0, total, 1.0)  # 0 for a sequence without keys
        at = (sequence.to(tl.int64) * HEADS + head) * HEAD_DIM + d
        tl.store(out + at, merged, mask=d < HEAD_DIM)


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
