"""Matrix products with fixed weights, each by the routine that is faster here.

There are two routines. *Plain* multiplies with weights laid out [in, out]: with few rows it is several times
faster than the usual [out, in], for it reads whole rows of them. *Packed* is oneDNN's, with weights in blocks
of its own: it shares the work of wide outputs among threads. Which one wins depends on the shape, the number
of rows, the threads and the CPU; so it is timed when a model is loaded.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Final

import torch

from .threads import threads
from .timing import best_seconds

__all__ = ["ROWS", "Linear", "mode_of", "tune"]

ROWS = (1, 4, 16, 64)
"""The numbers of rows that are timed; others go by the nearest one below."""

_MKLDNN: Final[Any] = torch.backends.mkldnn  # which torch has no types for
_BOTH_LAYOUTS = 1 << 30  # bytes of a model's matrices up to which each is kept in both layouts

_measured: dict[tuple[tuple[int, int], int, int], tuple[float, float]] = {}
"""Seconds of plain and packed by shape, threads and rows; kept, so that a process always chooses alike."""


def mode_of(rows: int, threads_index: int = 0) -> int:
    """How `rows` rows are multiplied: a number that stands for their size class and the threads."""
    return threads_index * len(ROWS) + sum(rows >= least for least in ROWS[1:])


class Linear:
    """`x @ weight.T + bias` in float32; plain until it is tuned."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        """Lay out `weight` [out, in] anew; the given tensor is not kept."""
        self.shape = (weight.shape[0], weight.shape[1])
        self._bias = bias
        self._plain: torch.Tensor | None = weight.t().contiguous()
        self._packed: torch.Tensor | None = None
        if _MKLDNN.is_available():
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
        self._use_packed: Sequence[bool] = (False,) * len(ROWS)  # by mode

    @property
    def can_pack(self) -> bool:
        """Whether the packed routine is there."""
        return self._packed is not None

    @property
    def nbytes(self) -> int:
        """The size of one layout."""
        return 4 * self.shape[0] * self.shape[1]

    def choose(self, use_packed: Sequence[bool]) -> None:
        """Set the routine of each mode, and free a layout that no mode uses."""
        self._use_packed = use_packed
        if all(use_packed):
            self._plain = None
        elif not any(use_packed):
            self._packed = None

    def __call__(self, x: torch.Tensor, mode: int, out: torch.Tensor | None = None) -> torch.Tensor:
        """The product with `x` [rows, in] as [rows, out]; it may lie in `out`, or elsewhere."""
        return self.multiply_packed(x) if self._use_packed[mode] else self.multiply_plain(x, out)

    def add_to(self, total: torch.Tensor, x: torch.Tensor, mode: int) -> None:
        """Add the product with `x` [rows, in] to `total` [rows, out], in place."""
        if self._use_packed[mode]:
            total.add_(self.multiply_packed(x))
            return
        assert self._plain is not None
        total.addmm_(x, self._plain)
        if self._bias is not None:
            total.add_(self._bias)

    def multiply_plain(self, x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """The product by the plain routine, in `out` if given."""
        assert self._plain is not None
        if self._bias is None:
            return torch.mm(x, self._plain, out=out)
        return torch.addmm(self._bias, x, self._plain, out=out)

    def multiply_packed(self, x: torch.Tensor) -> torch.Tensor:
        """The product by the packed routine."""
        product: torch.Tensor = _packed_linear(x, self._packed, self._bias, "none", [], "")
        return product


_packed_linear = torch.ops.mkldnn._linear_pointwise.default


def tune(linears: Sequence[Linear], thread_counts: Sequence[int]) -> None:
    """Time both routines on these weights and let each product take the faster one in every mode.

    A mode is a size class and one of `thread_counts`. Where the matrices are large in sum, each keeps one
    layout: that which takes less time over all modes.
    """
    spacious = sum(linear.nbytes for linear in linears) <= _BOTH_LAYOUTS
    by_shape = itertools.groupby(sorted(linears, key=lambda one: one.shape), key=lambda one: one.shape)
    for _, alike in by_shape:
        group = list(alike)
        if not group[0].can_pack:
            continue
        times = [_timing(group, count, rows) for count in thread_counts for rows in ROWS]
        if spacious:
            use_packed = [packed < plain for plain, packed in times]
        else:
            gain = sum(packed / plain for plain, packed in times) / len(times)
            use_packed = [gain < 1] * len(times)
        for linear in group:
            linear.choose(use_packed)


def _timing(group: Sequence[Linear], count: int, rows: int) -> tuple[float, float]:
    """Seconds of plain and packed; the matrices in turn, as then none stays in a cache by itself."""
    key = (group[0].shape, count, rows)
    if key not in _measured:
        x = torch.randn(rows, group[0].shape[1])
        turns = itertools.cycle(group)
        with threads(count), torch.inference_mode():
            plain = best_seconds(lambda: next(turns).multiply_plain(x))
            packed = best_seconds(lambda: next(turns).multiply_packed(x))
        _measured[key] = (plain, packed)
    return _measured[key]
