"""SiLU and product in one pass."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

__all__ = ["silu_mul"]

_BLOCK = 1024


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """See `weft.kernels.activation.silu_mul`."""
    gate_up = gate_up.contiguous()
    dim = gate_up.shape[-1] // 2
    out = torch.empty(*gate_up.shape[:-1], dim, dtype=gate_up.dtype, device=gate_up.device)
    tokens = out.numel() // dim
    _silu_mul[(tokens, triton.cdiv(dim, _BLOCK))](gate_up, out, dim, BLOCK=_BLOCK, num_warps=4)
    return out


@triton.jit
def _silu_mul(gate_up, out, dim, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < dim
    gate = tl.load(gate_up + token * 2 * dim + at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + token * 2 * dim + dim + at, mask=inside, other=0.0).to(tl.float32)
    gate = (gate / (1.0 + tl.exp(-gate))).to(out.dtype.element_ty).to(tl.float32)  # rounded as torch does
    tl.store(out + token * dim + at, gate * up, mask=inside)
