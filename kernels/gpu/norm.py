"""RMS norm, with the addition of the residual in the same pass; one program a row."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

__all__ = ["add_rms_norm", "rms_norm"]


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """See `weft.kernels.norm.rms_norm`."""
    x = x.contiguous()
    out = torch.empty_like(x)
    _launch(x, None, weight, out, None, eps)
    return out


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `weft.kernels.norm.add_rms_norm`."""
    x, residual = x.contiguous(), residual.contiguous()
    out, total = torch.empty_like(x), torch.empty_like(x)
    _launch(x, residual, weight, out, total, eps)
    return out, total


def _launch(
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor,
    out: torch.Tensor,
    total: torch.Tensor | None,
    eps: float,
) -> None:
    dim = x.shape[-1]
    rows = x.numel() // dim
    block = triton.next_power_of_2(dim)
    weights = weight.numel() // dim  # 1, or one a head
    _norm[(rows,)](
        x, residual, weight.contiguous(), out, total, eps, weights, dim, BLOCK=block, num_warps=_warps(block)
    )


def _warps(block: int) -> int:
    return min(max(block // 512, 1), 8)


@triton.jit
def _norm(x, residual, weight, out, total, eps, weights, dim, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    inside = i < dim
    at = row.to(tl.int64) * dim + i
    values = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if residual is not None:
        values += tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
        values = values.to(total.dtype.element_ty)
        tl.store(total + at, values, mask=inside)
        values = values.to(tl.float32)
    scale = tl.load(weight + (row % weights) * dim + i, mask=inside, other=0.0).to(tl.float32)
    normal = values * tl.rsqrt(tl.sum(values * values) / dim + eps)
    tl.store(out + at, normal.to(out.dtype.element_ty).to(tl.float32) * scale, mask=inside)
