"""Reciprocal-rank fusion: one ranking out of several whose scores cannot be compared."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from typing import TypeVar

__all__ = ["RRF_K", "reciprocal_ranks"]

RRF_K = 60  # the constant of the paper

_Item = TypeVar("_Item", bound=Hashable)


def reciprocal_ranks(rankings: Iterable[Sequence[_Item]], k: int = RRF_K) -> dict[_Item, float]:
    """The sum of `1 / (k + rank)` of each item over `rankings` (best first, ranks from 1).

    Cormack, Clarke and Büttcher, "Reciprocal rank fusion outperforms Condorcet and individual rank learning
    methods", SIGIR 2009. Within one ranking only the first place of an item counts. The sums are correctly
    rounded, so that they do not depend on the order of the rankings. `ValueError` if `k` is negative.
    """
    if k < 0:
        raise ValueError(f"k must be at least 0, not {k}")
    shares: defaultdict[_Item, list[float]] = defaultdict(list)
    for ranking in rankings:
        for rank, item in enumerate(dict.fromkeys(ranking), start=1):
            shares[item].append(1.0 / (k + rank))
    return {item: math.fsum(parts) for item, parts in shares.items()}
