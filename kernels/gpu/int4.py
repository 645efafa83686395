"""Products with matrices in 4 bits.

Few rows: a program unpacks some columns of the weight in registers, as it goes through a part of what they
have. The parts are added in a fixed order by another kernel, so that texts are reproducible. Many rows: the
matrix is unpacked first, into memory that is free again afterwards, for cuBLAS.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch.nn.functional import linear

from .common import INTERPRETED, dot, processors

__all__ = ["Tile", "multiply", "multiply_few", "multiply_many"]


class Tile(NamedTuple):
    """How few rows are multiplied."""

    rows: int  # that a program computes
    columns: int
    waves: int  # programs that each processor gets, at least, if the weight has as many parts
    warps: int
    stages: int


_TILES = {  # by how many rows there are at most; the best for the sum of a layer of Llama-3.1-8B on an H100
    16: Tile(16, 64, 1, 2, 4),
    32: Tile(32, 128, 2, 4, 3),
    64: Tile(64, 128, 1, 4, 3),
}
_ROWS = 16  # of the kernel that adds parts
_COLUMNS = 128
"""The columns that are added, or unpacked, at a time."""


def _spread(shift: int, magic: int) -> tl.constexpr:
    """Four bits of each of four bytes as the last bits of four numbers of 16 bits, whose others are `magic`.

    That is an instruction or so for each number, where a conversion is several.
    """
    pick = f"lop3.b32 {{}}, t, 0x000F000F, {magic << 16 | magic:#x}, 0xEA;"  # t & mask | magic
    return tl.constexpr(
        f"""{{
            .reg .b32 t, u;
            shr.b32 u, $2, {shift};
            prmt.b32 t, u, 0, 0x4140;
            {pick.format("$0")}
            prmt.b32 t, u, 0, 0x4342;
            {pick.format("$1")}
        }}"""
    )


_BFLOAT16 = tl.constexpr(128)  # the last bits of numbers from here on count ones
_BFLOAT16_LOWER, _BFLOAT16_UPPER = (_spread(shift, 0x4300) for shift in (0, 4))
_FLOAT16 = tl.constexpr(1024)
_FLOAT16_LOWER, _FLOAT16_UPPER = (_spread(shift, 0x6400) for shift in (0, 4))


def multiply(
    x: torch.Tensor, values: torch.Tensor, factors: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """See `weft.kernels.int4.multiply`."""
    if not len(x):
        return x.new_empty(0, values.shape[1])
    tile = next((tile for most, tile in _TILES.items() if len(x) <= most), None)
    if tile is None:
        return multiply_many(x, values, factors, bias)
    return multiply_few(x, values, factors, bias, tile)


def multiply_few(
    x: torch.Tensor, values: torch.Tensor, factors: torch.Tensor, bias: torch.Tensor | None, tile: Tile
) -> torch.Tensor:
    """The product, unpacking in registers."""
    x = x.contiguous()
    rows, (blocks, width, half) = len(x), values.shape
    tiles = triton.cdiv(rows, tile.rows) * triton.cdiv(width, tile.columns)
    each = triton.cdiv(blocks, triton.cdiv(tile.waves * processors(x.device), tiles))
    parts = triton.cdiv(blocks, each)
    out = torch.empty(rows, width, dtype=x.dtype, device=x.device)
    sums = out if parts == 1 else torch.empty(parts, rows, width, dtype=torch.float32, device=x.device)
    _multiply[(triton.cdiv(rows, tile.rows), triton.cdiv(width, tile.columns), parts)](
        x,
        values,
        factors,
        bias if parts == 1 else None,
        sums,
        rows,
        width,
        blocks,
        blocks // len(factors),
        each,
        HALF=half,
        BLOCK_M=tile.rows,
        BLOCK_N=tile.columns,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    if parts > 1:
        grid = (triton.cdiv(rows, _ROWS), triton.cdiv(width, _COLUMNS))
        _add[grid](sums, bias, out, rows, width, parts, BLOCK_M=_ROWS, BLOCK_N=_COLUMNS, num_warps=4)
    return out


def multiply_many(
    x: torch.Tensor, values: torch.Tensor, factors: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """The product by cuBLAS, with the weight unpacked before."""
    blocks, width, half = values.shape
    weight = torch.empty(width, blocks * half * 2, dtype=x.dtype, device=x.device)
    grid = (blocks, triton.cdiv(width, _COLUMNS))
    _unpack[grid](
        values,
        factors,
        weight,
        width,
        blocks,
        blocks // len(factors),
        HALF=half,
        BLOCK_N=_COLUMNS,
        num_warps=4,
    )
    return linear(x, weight, bias)


@triton.jit(do_not_specialize=["rows", "each"])
def _multiply(
    x,
    values,
    factors,
    bias,
    sums,
    rows,
    width,
    blocks,
    group,
    each,
    HALF: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """A tile of the product, or of the part of it that `each` blocks of columns contribute."""
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    part = tl.program_id(2).to(tl.int64)
    column = tl.minimum(n, width - 1)
    i = tl.arange(0, HALF)
    inputs = x + m[:, None].to(tl.int64) * (blocks * 2 * HALF) + i[None, :]
    packed = values + column[None, :].to(tl.int64) * HALF + i[:, None]
    inside = (m < rows)[:, None]
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for block in range(part * each, tl.minimum((part + 1) * each, blocks)):
        pair = tl.load(packed + block * width * HALF)
        factor = tl.load(factors + block // group * width + column)
        first = tl.load(inputs + block * 2 * HALF, mask=inside, other=0.0)
        second = tl.load(inputs + block * 2 * HALF + HALF, mask=inside, other=0.0)
        zero = (factor & 15)[None, :]
        low = _numbers(pair, zero, x.dtype.element_ty, UPPER=False)
        high = _numbers(pair, zero, x.dtype.element_ty, UPPER=True)
        total += (dot(first, low) + dot(second, high)) * _scale(factor)[None, :]
    if bias is not None:
        total += tl.load(bias + column).to(tl.float32)[None, :]
    at = sums + (part * rows + m[:, None]) * width + n[None, :]
    tl.store(at, total.to(sums.dtype.element_ty), mask=inside & (n < width)[None, :])


@triton.jit(do_not_specialize=["rows", "parts"])
def _add(sums, bias, out, rows, width, parts, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """The parts of a tile, one after the other."""
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (m < rows)[:, None] & (n < width)[None, :]
    at = m[:, None].to(tl.int64) * width + n[None, :]
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for part in range(parts):
        total += tl.load(sums + part * rows * width + at, mask=inside, other=0.0)
    if bias is not None:
        total += tl.load(bias + n, mask=n < width, other=0.0).to(tl.float32)[None, :]
    tl.store(out + at, total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _unpack(values, factors, weight, width, blocks, group, HALF: tl.constexpr, BLOCK_N: tl.constexpr):
    """A block of columns of some rows of the weight."""
    block = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    i = tl.arange(0, HALF)
    inside = n < width
    factor = tl.load(factors + block // group * width + n, mask=inside, other=0)
    at = n[:, None].to(tl.int64) * HALF + i[None, :]
    pair = tl.load(values + block * width * HALF + at, mask=inside[:, None], other=0)
    zero, scale = (factor & 15)[:, None], _scale(factor)[:, None]
    low = _numbers(pair, zero, tl.float32, UPPER=False) * scale
    high = _numbers(pair, zero, tl.float32, UPPER=True) * scale
    to = weight + n[:, None].to(tl.int64) * (blocks * 2 * HALF) + block * 2 * HALF + i[None, :]
    tl.store(to, low.to(weight.dtype.element_ty), mask=inside[:, None])
    tl.store(to + HALF, high.to(weight.dtype.element_ty), mask=inside[:, None])


@triton.jit
def _scale(factor):
    """A factor without its zero."""
    return (factor & -16).to(tl.float32, bitcast=True)


@triton.jit
def _numbers(pair, zero, dtype: tl.constexpr, UPPER: tl.constexpr):
    """The lower or the upper bits of bytes, less `zero`."""
    if INTERPRETED or dtype == tl.float32:
        bits = (pair >> 4 if UPPER else pair & 15).to(tl.int32)
        numbers = (bits - zero).to(tl.float32).to(dtype)  # the interpreter has no shorter way
    elif dtype == tl.bfloat16:
        numbers = tl.inline_asm_elementwise(
            _BFLOAT16_UPPER if UPPER else _BFLOAT16_LOWER,
            "=r,=r,r",
            [pair],
            tl.bfloat16,
            is_pure=True,
            pack=4,
        )
        numbers -= (zero + _BFLOAT16).to(tl.bfloat16)
    else:
        numbers = tl.inline_asm_elementwise(
            _FLOAT16_UPPER if UPPER else _FLOAT16_LOWER, "=r,=r,r", [pair], tl.float16, is_pure=True, pack=4
        )
        numbers -= (zero + _FLOAT16).to(tl.float16)
    return numbers
