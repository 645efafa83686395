"""Products of matrices in 8 bits: e4m3 (Micikevicius et al., arXiv:2209.05433), with a factor for each row.

A weight has a factor for each row, which is an output's; an input has one for each token, found as it comes.
So a token's product does not depend on which others are computed beside it, but for the order of additions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import torch

from .dispatch import kernel

__all__ = ["FP8", "LARGEST", "SMALLEST", "Fp8Matrix", "fp8_linear", "quantize_rows", "scale_product"]

FP8: Final = torch.float8_e4m3fn
LARGEST: Final = 448.0  # that it has
SMALLEST: Final = 1e-30  # magnitude of a row, so that zeros stay zeros
_MANY: Final = 64  # rows: cuBLAS has a faster product for fewer, which is scaled afterwards


@dataclass(frozen=True, slots=True)
class Fp8Matrix:
    """A weight [out, in]: `values` in 8 bits, and `factors`, float32 [out, 1], that give its rows back.

    There may be several, [..., out, in].
    """

    values: torch.Tensor
    factors: torch.Tensor

    @classmethod
    def of(cls, weight: torch.Tensor) -> Fp8Matrix:
        """The nearest to `weight` [..., out, in]."""
        values, factors = quantize_rows(weight.flatten(0, -2))
        return cls(values.view_as(weight), factors.view(*weight.shape[:-1], 1))


@kernel
def quantize_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row of `x` [rows, dim] in 8 bits, and the factors, float32 [rows, 1], that give it back.

    The largest magnitude of a row becomes the largest that the format has.
    """
    x = x.float()
    factors = x.abs().amax(-1, keepdim=True).clamp_min(SMALLEST) / LARGEST
    return (x / factors).to(FP8), factors


@kernel
def scale_product(
    product: torch.Tensor,
    rows: torch.Tensor,
    columns: torch.Tensor,
    bias: torch.Tensor | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    """`product`, float32 [rows, columns], times the factors of its rows and columns, and `bias` [columns].

    The factors are float32 [rows, 1] and [columns, 1]; the result has `dtype`.
    """
    scaled = product * rows * columns.t()
    return (scaled if bias is None else scaled + bias).to(dtype)


def fp8_linear(x: torch.Tensor, weight: Fp8Matrix, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`x` [tokens, in] times the transposed weight, plus `bias` [out]: [tokens, out], of `x`'s dtype.

    On an NVIDIA GPU of compute capability 8.9 or more by its units for 8 bits, which take widths that are
    multiples of 16; elsewhere in float32.
    """
    values, factors = quantize_rows(x)
    if x.is_cuda and x.dtype == torch.bfloat16 and len(x) > _MANY:  # which has no results of other types
        return _scaled_mm(values, weight.values, factors, weight.factors.t(), bias=bias, out_dtype=x.dtype)
    return scale_product(_product(values, weight.values), factors, weight.factors, bias, x.dtype)


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """`a` [rows, dim] times the transposed `b` [columns, dim], both in 8 bits, in float32.

    For few rows cuBLAS has faster products of matrices with a factor of 1 each than with one for each row.
    """
    if not a.is_cuda:
        return a.float() @ b.float().t()
    one = _one(a.device)
    return _scaled_mm(a, b, one, one, out_dtype=torch.float32)


def _scaled_mm(a: torch.Tensor, b: torch.Tensor, *factors: torch.Tensor, **options: Any) -> torch.Tensor:
    """cuBLAS's product of `a` and the transposed `b`, times a factor for each or one for each row of both."""
    scaled_mm: Any = torch._scaled_mm  # which has no types
    product: torch.Tensor = scaled_mm(a, b.t(), *factors, **options)
    return product


@cache
def _one(device: torch.device) -> torch.Tensor:
    return torch.ones((), device=device)
