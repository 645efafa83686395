"""The ends of products in 8 bits: rounding rows to them, and giving the results back their sizes."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from weft.kernels.fp8 import FP8, LARGEST, SMALLEST

__all__ = ["quantize_rows", "scale_product"]

_BLOCK = 1024


def quantize_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """See `weft.kernels.fp8.quantize_rows`."""
    x = x.contiguous()
    rows, dim = x.shape
    values = torch.empty(rows, dim, dtype=FP8, device=x.device)
    factors = torch.empty(rows, 1, dtype=torch.float32, device=x.device)
    block = triton.next_power_of_2(dim)
    warps = min(max(block // 512, 1), 16)
    _quantize[(rows,)](x, values, factors, dim, LARGEST, SMALLEST, BLOCK=block, num_warps=warps)
    return values, factors


def scale_product(
    product: torch.Tensor,
    rows: torch.Tensor,
    columns: torch.Tensor,
    bias: torch.Tensor | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    """See `weft.kernels.fp8.scale_product`."""
    count, width = product.shape
    out = torch.empty(count, width, dtype=dtype, device=product.device)
    grid = (count, triton.cdiv(width, _BLOCK))
    _scale[grid](product, rows, columns, bias, out, width, BLOCK=_BLOCK, num_warps=4)
    return out


@triton.jit
def _quantize(x, values, factors, dim, largest, smallest, BLOCK: tl.constexpr):
    """One row."""
    row = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, BLOCK)
    inside = i < dim
    loaded = tl.load(x + row * dim + i, mask=inside, other=0.0).to(tl.float32)
    factor = tl.maximum(tl.max(tl.abs(loaded)), smallest) / largest
    tl.store(factors + row, factor)
    tl.store(values + row * dim + i, (loaded / factor).to(values.dtype.element_ty), mask=inside)


@triton.jit
def _scale(product, rows, columns, bias, out, width, BLOCK: tl.constexpr):
    """Part of one row."""
    row = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = i < width
    scaled = tl.load(product + row * width + i, mask=inside, other=0.0)
    scaled *= tl.load(rows + row) * tl.load(columns + i, mask=inside, other=0.0)
    if bias is not None:
        scaled += tl.load(bias + i, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + i, scaled.to(out.dtype.element_ty), mask=inside)
