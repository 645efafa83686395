"""Short measurements, by which the CPU path chooses among ways to compute the same."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["best_seconds"]

_REPEATS = 5
_PATIENCE = 0.05  # seconds after which nothing is repeated


def best_seconds(run: Callable[[], object]) -> float:
    """The least time of some runs, after one that does not count; of the first two if they are long."""
    run()
    times: list[float] = []
    while len(times) < _REPEATS and sum(times) < _PATIENCE:
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)
