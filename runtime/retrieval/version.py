"""An index at one version, as it is searched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .documents import Passage
from .errors import IndexMismatchError
from .filters import Where
from .snapshot import Mode, Snapshot
from .tables import Header
from .vectors import checked, normalized

__all__ = ["IndexVersion"]


@dataclass(frozen=True, slots=True)
class IndexVersion:
    """An index at one version: what it gives for a search never changes."""

    _name: str
    _header: Header
    _snapshot: Snapshot

    @property
    def key(self) -> tuple[str, int]:
        """See `Snapshot.key`."""
        return self._snapshot.key

    def search(
        self,
        queries: Sequence[str],
        vectors: NDArray[np.float32] | None,
        ks: Sequence[int],
        mode: Mode,
        where: Where = (),
    ) -> list[list[Passage]]:
        """As `IndexStore.search`."""
        name, found = self._name, self._header
        unit = None if mode == "lexical" else _query_vectors(name, found, vectors, len(queries), mode)
        if not queries:
            return []
        return self._snapshot.search(queries, unit, ks, mode, where)


def _query_vectors(
    name: str, index: Header, vectors: NDArray[np.float32] | None, count: int, mode: Mode
) -> NDArray[np.float32]:
    """`vectors` with length 1, checked against the index."""
    if vectors is None:
        raise ValueError(f"{mode} search needs the vectors of the queries")
    unit = normalized(checked(vectors, count))
    if count and unit.shape[1] != index.dimension:
        raise IndexMismatchError(
            f"the query vectors have dimension {unit.shape[1]}, those of index {name!r} {index.dimension}; "
            f"embed queries by its embedder {index.embedder!r}"
        )
    return unit
