"""Products with matrices in 4 bits: numbers of 0 to 15, less a zero and times a scale for each group of them.

A group is some neighbours in a row of the matrix [out, in], 128 as a rule. Inputs stay as they are: a product
is that with the numbers that the matrix stands for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

from .dispatch import kernel

__all__ = ["Int4Matrix", "int4_linear", "unpacked"]

_LEAST_GROUP: Final = 32  # columns that share a scale and a zero, of which any group has a multiple
_LARGEST_BLOCK: Final = 128
_GROUP: Final = 128  # of what is rounded here
_SMALLEST: Final = 1e-30  # scale, so that zeros stay zeros
_ZERO: Final = 15  # the bits of a factor that are its zero


@dataclass(frozen=True, slots=True)
class Int4Matrix:
    """A weight [out, in], laid out for the kernel.

    Its columns lie in blocks, each of which is contiguous. A byte has a column of the first half of a block
    in its lower bits, and that as far into the second half in its upper ones.
    """

    values: torch.Tensor  # uint8 [blocks, out, columns of a block / 2]
    factors: torch.Tensor
    """int32 [groups, out]: the bits of a float32, the scale, of which the last four are the zero."""
    order: torch.Tensor | None = None
    """int64 [in]: which input each column belongs to; None: the first to the first, and so on."""

    @classmethod
    def pack(
        cls,
        numbers: torch.Tensor,
        scales: torch.Tensor,
        zeros: torch.Tensor,
        order: torch.Tensor | None = None,
    ) -> Int4Matrix:
        """Of uint8 [out, in], and of scales and zeros [out, groups]; a scale is cut to 20 bits of mantissa.

        All that come out of 16 bits have no more. Raises ValueError for groups of no multiple of 32 columns.
        """
        out, columns = numbers.shape
        group = columns // max(scales.shape[1], 1)
        if columns != group * scales.shape[1] or not group or group % _LEAST_GROUP:
            raise ValueError(
                f"{scales.shape[1]} groups of {columns} columns, not of a multiple of {_LEAST_GROUP} each"
            )
        block = next(size for size in (_LARGEST_BLOCK, 64, _LEAST_GROUP) if group % size == 0)
        halves = numbers.view(out, -1, 2, block // 2).transpose(0, 1)
        values = halves[:, :, 0] | halves[:, :, 1] << 4
        bits = scales.float().contiguous().view(torch.int32)
        factors = (bits & ~_ZERO | zeros.int()).t().contiguous()
        return cls(values.contiguous(), factors, order)

    @classmethod
    def of(cls, weight: torch.Tensor) -> Int4Matrix:
        """The nearest to `weight` [out, in] in groups of 128 columns, or of 64 or 32 where these fit.

        A group's numbers are spread from its least to its largest, and 0 is one of them. Raises ValueError
        where no groups fit.
        """
        out, columns = weight.shape
        group = next((size for size in (_GROUP, 64, _LEAST_GROUP) if columns % size == 0), columns)
        groups = weight.float().view(out, -1, group)
        least, largest = groups.amin(-1).clamp_max(0), groups.amax(-1).clamp_min(0)
        scales = ((largest - least) / 15).clamp_min(_SMALLEST)
        zeros = (-least / scales).round()
        numbers = (groups / scales[:, :, None] + zeros[:, :, None]).round().clamp(0, 15)
        return cls.pack(numbers.to(torch.uint8).view(out, columns), scales, zeros)

    @classmethod
    def cat(cls, parts: list[Int4Matrix]) -> Int4Matrix:
        """The rows of several matrices with the same groups, one after the other.

        Raises ValueError if their columns are in different orders.
        """
        first = parts[0].order
        if not all(_same(part.order, first) for part in parts):
            raise ValueError("columns in different orders")
        values = torch.cat([part.values for part in parts], dim=1)
        return cls(values, torch.cat([part.factors for part in parts], dim=1), first)

    @property
    def shape(self) -> tuple[int, int]:
        """Its rows and columns."""
        blocks, out, half = self.values.shape
        return out, blocks * half * 2


def _same(order: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    return order is other or (order is not None and other is not None and torch.equal(order, other))


def int4_linear(x: torch.Tensor, weight: Int4Matrix, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`x` [tokens, in] times the transposed weight, plus `bias` [out]: [tokens, out], of `x`'s dtype."""
    if weight.order is not None:
        x = x.index_select(1, weight.order)
    return multiply(x, weight.values, weight.factors, bias)


@kernel
def multiply(
    x: torch.Tensor, values: torch.Tensor, factors: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """`x` [tokens, in] times the transposed weight of an `Int4Matrix`, plus `bias` [out], of `x`'s dtype."""
    product = x.float() @ unpacked(values, factors).t()
    return (product if bias is None else product + bias).to(x.dtype)


def unpacked(values: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """The numbers, float32 [out, in], that a matrix stands for; its columns in its own order."""
    blocks, out, half = values.shape
    numbers = torch.stack([values & 15, values >> 4], dim=2).transpose(0, 1)
    groups = numbers.reshape(out, len(factors), -1)
    scales, zeros = (factors & ~_ZERO).view(torch.float32), factors & _ZERO
    centered = groups.float() - zeros.t()[:, :, None]
    return (centered * scales.t()[:, :, None]).reshape(out, blocks * 2 * half)
