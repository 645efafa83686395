"""Which passages of an index have certain metadata."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from .documents import JsonScalar, Metadata

__all__ = ["MetadataRows", "Where", "where_of"]

_Key = tuple[bool, JsonScalar]  # booleans apart from the numbers that they equal

Where = tuple[tuple[str, tuple[_Key, ...]], ...]
"""For each field of the metadata, by name, the values of which a passage has one; empty: no condition."""


def where_of(value: object) -> Where:
    """The condition that an object states: fields with a value each, or a list, of which any will do.

    Raises `ValueError` that names the field.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"where must be an object of metadata fields, not a {type(value).__name__}")
    return tuple((name, tuple(_keys(name, wanted))) for name, wanted in sorted(value.items()))


@dataclass(frozen=True, slots=True)
class MetadataRows:
    """For each field of the metadata and each value of it the rows that have it, ascending."""

    rows: Mapping[str, Mapping[_Key, NDArray[np.int64]]]

    @classmethod
    def build(cls, metadata: Iterable[Metadata]) -> MetadataRows:
        """The index of rows with this metadata."""
        found: defaultdict[str, defaultdict[_Key, list[int]]] = defaultdict(lambda: defaultdict(list))
        for row, fields in enumerate(metadata):
            for name, value in fields.items():
                found[name][_key(value)].append(row)
        return cls(
            {
                name: {key: np.array(rows, np.int64) for key, rows in values.items()}
                for name, values in found.items()
            }
        )

    def matching(self, where: Where) -> NDArray[np.int64]:
        """The rows that meet a condition that is not empty, ascending."""
        return reduce(np.intersect1d, (self._with(name, keys) for name, keys in where))

    def _with(self, name: str, keys: Sequence[_Key]) -> NDArray[np.int64]:
        values = self.rows.get(name, {})
        return np.unique(np.concatenate([np.zeros(0, np.int64), *(values[k] for k in keys if k in values)]))


def _keys(name: str, wanted: object) -> Iterable[_Key]:
    for value in wanted if isinstance(wanted, list) else [wanted]:
        if value is not None and not isinstance(value, (str, int, float)):
            raise ValueError(
                f"where[{name!r}] must be a string, number, boolean or null, or a list of these, "
                f"not a {type(value).__name__}"
            )
        yield _key(value)


def _key(value: JsonScalar) -> _Key:
    return isinstance(value, bool), value
