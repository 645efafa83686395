"""Pieces that several attention kernels share."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

__all__ = [
    "INTERPRETED",
    "LOG2_E",
    "cap",
    "dot",
    "key_block",
    "key_slots",
    "load_rows",
    "processors",
    "rotate",
    "rotation",
    "scales",
]

LOG2_E = 1.4426950408889634

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))


def processors(device: torch.device) -> int:
    """How many programs of full size `device` runs at once; the interpreter's CPU counts as a small GPU."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4


def key_block(pool: torch.Tensor) -> int:
    """Keys a step: as many as several steps' keys and values of the pool's width fit into shared memory."""
    return 64 if pool.shape[2] * pool.element_size() <= 256 else 32


def scales(scale: float, softcap: float | None) -> tuple[float, float | None]:
    """The factor on scores, for exponentials of base 2, and that of `cap` before it."""
    if softcap is None:
        return scale * LOG2_E, None
    return softcap * LOG2_E, scale / softcap


@triton.jit
def cap(scores, squash):
    """tanh of the scores times `squash`; the scores themselves if it is None."""
    if squash is not None:
        scores = 2 * tl.sigmoid(2 * squash * scores) - 1
    return scores


@triton.jit
def dot(a, b):
    """The product of two tiles, accumulated in float32; float32 operands are not rounded to tf32.

    Nor are sums of products in 8 bits kept in fewer bits, as Hopper's units would.
    """
    if INTERPRETED:  # which multiplies the bit patterns of bfloat16
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee", max_num_imprecise_acc=0)


@triton.jit
def key_slots(pages, n, inside, PAGE: tl.constexpr):
    """The slots of the keys at positions `n` of the row `pages` (a pointer); 0 where not `inside`."""
    slots = tl.load(pages + n // PAGE, mask=inside, other=0).to(tl.int64)
    if PAGE > 1:
        slots = slots * PAGE + n % PAGE
    return slots


@triton.jit
def load_rows(pool, slots, i, inside, WIDTH: tl.constexpr, MASKED: tl.constexpr):
    """The elements `i` below WIDTH of the rows at `pool + slots`; if MASKED, 0 where not `inside`."""
    at = pool + slots[:, None] + i[None, :]
    if MASKED:
        rows = tl.load(at, mask=inside[:, None] & (i < WIDTH)[None, :], other=0.0)
    elif i.shape[0] > WIDTH:
        rows = tl.load(at, mask=(i < WIDTH)[None, :], other=0.0)
    else:
        rows = tl.load(at)
    return rows


@triton.jit
def rotation(cos, sin, positions, inside, HALF: tl.constexpr, BLOCK_H: tl.constexpr):
    """Cosines and sines of `positions` [n] as two tiles [n, BLOCK_H]; those beyond HALF are arbitrary."""
    i = tl.arange(0, BLOCK_H)
    at = positions[:, None] * HALF + i[None, :]
    mask = inside[:, None] & (i < HALF)[None, :]
    return tl.load(cos + at, mask=mask, other=0.0), tl.load(sin + at, mask=mask, other=0.0)


@triton.jit
def rotate(x1, x2, c, s):
    """Turn the pairs (x1, x2) by the angles with cosines c and sines s, in float32."""
    x1 = x1.to(tl.float32)
    x2 = x2.to(tl.float32)
    return x1 * c - x2 * s, x2 * c + x1 * s
