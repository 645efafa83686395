"""Checks and arithmetic on batches of vectors."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["checked", "normalized"]


def checked(vectors: ArrayLike, count: int) -> NDArray[np.float32]:
    """`vectors` as float32 `[count, dimension]`; `ValueError` for another shape or values not finite."""
    values = np.asarray(vectors, np.float32)
    if values.ndim != 2 or len(values) != count or (count and not values.shape[1]):
        raise ValueError(
            f"{count} texts need vectors of shape [{count}, dimension], not {list(values.shape)}"
        )
    if not np.isfinite(values).all():
        raise ValueError("vectors must be finite numbers")
    return values


def normalized(rows: ArrayLike) -> NDArray[np.float32]:
    """`rows` `[n, d]` with Euclidean length 1, as float32; rows of zeros stay zero. Computed row by row."""
    wide = np.asarray(rows, np.float64)
    norms = np.sqrt((wide * wide).sum(axis=1, keepdims=True))
    unit = np.zeros(wide.shape)
    np.divide(wide, norms, out=unit, where=norms > 0)
    return unit.astype(np.float32)
