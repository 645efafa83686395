"""The products of a layer's inputs with its weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import linear

from weft.kernels.fp8 import Fp8Matrix, fp8_linear
from weft.kernels.int4 import Int4Matrix, int4_linear

from ..errors import ModelError
from ..source import Matrix

__all__ = ["Projection", "project_by"]

_MULTIPLE = 16  # of which the widths of matrices in 8 bits are


@dataclass(frozen=True, slots=True)
class Projection:
    """A weight [out, in], as it is or in 8 or 4 bits, and a bias [out]."""

    weight: Matrix | Fp8Matrix
    bias: torch.Tensor | None = None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """`x` [tokens, in] times the transposed weight, plus the bias: [tokens, out], of `x`'s dtype."""
        if isinstance(self.weight, Fp8Matrix):
            return fp8_linear(x, self.weight, self.bias)
        if isinstance(self.weight, Int4Matrix):
            return int4_linear(x, self.weight, self.bias)
        return linear(x, self.weight, self.bias)


def project_by(
    weight: Matrix, bias: torch.Tensor | None, *, fp8: bool, by_columns: bool = False
) -> Projection:
    """The projection by a weight [out, in], in 8 bits if `fp8`, unless it is in 4.

    `by_columns`: laid out so, if it stays as it is. Raises `ModelError` for a width that has no product in
    8 bits.
    """
    if isinstance(weight, Int4Matrix):
        return Projection(weight, bias)
    if not fp8:
        return Projection(weight.t().contiguous().t() if by_columns else weight, bias)
    if weight.shape[0] % _MULTIPLE or weight.shape[1] % _MULTIPLE:
        raise ModelError(
            f"weights in fp8 take widths that are multiples of {_MULTIPLE}, and the model has a matrix of "
            f"{weight.shape[0]} x {weight.shape[1]}: set quantization = 'none'"
        )
    return Projection(Fp8Matrix.of(weight), bias)
