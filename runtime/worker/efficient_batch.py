"""How many items an engine does efficiently at once: measured when it starts."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, NamedTuple

__all__ = ["SAMPLE", "EfficientBatch", "efficient_batch", "timed"]

SAMPLE: Final = "The river of the old town is long and its harbour is known for wool and salt. " * 4
"""A passage of ordinary length to measure with."""

_WORTHWHILE: Final = 1.05  # the factor of throughput that doubling a batch must gain
_LARGEST: Final = 1024


class EfficientBatch(NamedTuple):
    """The items in one call beyond which a larger one gains nothing, and the milliseconds of each there."""

    items: int
    item_ms: float


def efficient_batch(measure: Callable[[int], float], seconds: float) -> EfficientBatch:
    """Double the batch until throughput stops rising (Teola, section 7), for about `seconds` at the most.

    `measure` computes a batch of so many items and returns the seconds that it took.
    """
    best = EfficientBatch(1, measure(1) * 1e3)
    spent = best.item_ms / 1e3
    while best.items < _LARGEST and spent < seconds:
        items = best.items * 2
        took = measure(items)
        spent += took
        item_ms = took * 1e3 / items
        if best.item_ms < _WORTHWHILE * item_ms:
            break
        best = EfficientBatch(items, item_ms)
    return best


def timed(compute: Callable[[int], object]) -> Callable[[int], float]:
    """A measure that takes the better of two runs."""

    def measure(items: int) -> float:
        return min(_seconds(compute, items) for _ in range(2))

    return measure


def _seconds(compute: Callable[[int], object], items: int) -> float:
    began = time.perf_counter()
    compute(items)
    return time.perf_counter() - began
