"""Quantiles of a stream of numbers in little memory."""

from __future__ import annotations

import math
from typing import Final

__all__ = ["RELATIVE_ERROR", "Quantiles"]

RELATIVE_ERROR: Final = 0.05
"""Of every quantile."""

_GAMMA: Final = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_LOG_GAMMA: Final = math.log(_GAMMA)
_TINY: Final = 1e-6  # what is smaller counts as nothing
_MOST_BUCKETS: Final = 256


class Quantiles:
    """DDSketch (Masson, Rim and Lee, VLDB 2019): buckets that grow by a constant factor.

    Every quantile is within 5 % of the value that has it, unless it fell into the lowest of 256 buckets,
    which takes in what would lie below.
    """

    def __init__(self) -> None:
        self.count = 0
        self._zeros = 0
        self._buckets: dict[int, int] = {}

    def add(self, value: float) -> None:
        """Count a value. Raises ValueError for one that is negative or not finite."""
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"a value must be finite and not negative, not {value}")
        self.count += 1
        if value < _TINY:
            self._zeros += 1
            return
        bucket = math.ceil(math.log(value) / _LOG_GAMMA)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1
        if len(self._buckets) > _MOST_BUCKETS:
            lowest, second = sorted(self._buckets)[:2]
            self._buckets[second] += self._buckets.pop(lowest)

    def quantile(self, q: float) -> float:
        """The value that `q` of all do not exceed. Raises ValueError without any, or outside [0, 1]."""
        if not 0 <= q <= 1:
            raise ValueError(f"a quantile lies in [0, 1], not at {q}")
        if not self.count:
            raise ValueError("no value has been counted")
        rank = q * (self.count - 1)
        seen = self._zeros
        if rank < seen:
            return 0.0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if rank < seen:
                break
        return 2 * _GAMMA**bucket / (_GAMMA + 1)
