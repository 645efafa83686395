"""What a language model takes, fitted to the times that its worker measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

__all__ = ["CHARS_PER_TOKEN", "DEFAULT_COSTS", "DecodePoint", "ModelCosts", "PrefillPoint"]

CHARS_PER_TOKEN: Final = 4.0
"""Of English text, about."""


@dataclass(frozen=True, slots=True)
class PrefillPoint:
    """The milliseconds of computing `new` tokens behind `cached` ones."""

    cached: int
    new: int
    ms: float


@dataclass(frozen=True, slots=True)
class DecodePoint:
    """The milliseconds of one step of `batch` decodes, each with `context` tokens."""

    batch: int
    context: int
    ms: float


@dataclass(frozen=True)
class ModelCosts:
    """Measured points, and a model of three terms between and beyond them.

    Prefill: ``a + b·new + c·new·(cached + new/2)``; decode: ``a + b·batch + c·batch·context``. No term is
    negative, so more work never takes less time.
    """

    prefill: tuple[PrefillPoint, ...]
    decode: tuple[DecodePoint, ...]
    efficient_batch: int = 1

    def prefill_ms(self, cached: float, new: float) -> float:
        """Computing `new` tokens behind `cached` ones; nothing for none."""
        if new <= 0:
            return 0.0
        a, b, c = self.prefill_terms
        return a + b * new + c * new * (cached + new / 2)

    def decode_ms(self, batch: float, context: float) -> float:
        """One step of `batch` decodes with `context` tokens each."""
        a, b, c = self.decode_terms
        return a + b * batch + c * batch * context

    @cached_property
    def prefill_terms(self) -> tuple[float, float, float]:
        """The `a`, `b` and `c` of prefills."""
        rows = [(1.0, p.new, p.new * (p.cached + p.new / 2)) for p in self.prefill]
        return _fit(rows, [p.ms for p in self.prefill])

    @cached_property
    def decode_terms(self) -> tuple[float, float, float]:
        """The `a`, `b` and `c` of decodes."""
        rows = [(1.0, p.batch, p.batch * p.context) for p in self.decode]
        return _fit(rows, [p.ms for p in self.decode])


def _fit(rows: Sequence[tuple[float, float, float]], times: Sequence[float]) -> tuple[float, float, float]:
    """Non-negative least squares of relative errors: negative terms are left out until none is left."""
    target = np.asarray(times, np.float64)
    weights = 1.0 / np.maximum(target, 1e-9)
    matrix = np.asarray(rows, np.float64) * weights[:, None]
    used = [0, 1, 2]
    terms = np.zeros(3)
    while used:
        solved = np.linalg.lstsq(matrix[:, used], target * weights, rcond=None)[0]
        if (solved >= 0).all():
            terms[used] = solved
            break
        used.pop(int(solved.argmin()))
    return float(terms[0]), float(terms[1]), float(terms[2])


DEFAULT_COSTS: Final = ModelCosts(
    (PrefillPoint(0, 16, 6.0), PrefillPoint(0, 256, 30.0), PrefillPoint(1024, 256, 36.0)),
    (DecodePoint(1, 64, 6.0), DecodePoint(16, 64, 12.0), DecodePoint(16, 1024, 16.0)),
    16,
)
"""Of a small model on two cores, where no worker has measured its own."""
