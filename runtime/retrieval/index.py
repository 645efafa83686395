"""The store of indexes, wherever they lie, searched through snapshots in memory.

Every change is one atomic commit, and writers of one index take turns. Readers take no lock: they look up the
newest version and load it if it is new to them.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .documents import Chunk, Passage
from .errors import IndexMismatchError, UnknownIndexError
from .filters import Where
from .snapshot import Mode, Snapshot
from .tables import Header, IngestReport, Table, Tables, check_name, load
from .vectors import checked, normalized
from .version import IndexVersion

__all__ = ["IndexInfo", "IndexStore", "IngestReport"]


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """What is known of an index without reading its passages."""

    name: str
    passages: int
    embedder: str
    """The `name` of the embedder whose vectors it holds: queries must be embedded by the same one."""
    dimension: int
    version: int
    """Grows with every change, and when the index is tidied up."""


class _Loaded(NamedTuple):
    """What is in memory of an index."""

    snapshot: Snapshot
    version: int
    """One with the rows of the snapshot: a later one than its own where tidying has made it."""


class IndexStore:
    """The indexes in one place. Safe for many threads, and for many processes that share the place.

    Methods that take `name` raise `ValueError` if it cannot name an index, and, where the index must exist,
    `UnknownIndexError` if it does not and `CorruptIndexError` if what is stored cannot be read. Where the
    place is a server, all may raise `IndexServerError`.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._loaded: dict[str, _Loaded] = {}
        self._loading: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)  # by index

    @property
    def kind(self) -> str:
        """What keeps the indexes."""
        return self._tables.kind

    @property
    def shared(self) -> bool:
        """Whether other workers of a server are to change them, too."""
        return self._tables.shared

    def names(self) -> list[str]:
        """The existing indexes, sorted."""
        return self._tables.names()

    def exists(self, name: str) -> bool:
        """Whether there is an index `name`."""
        check_name(name)
        return self._tables.exists(name)

    def describe(self, name: str) -> IndexInfo:
        """The size, embedder and version of index `name`."""

        def described(table: Table) -> IndexInfo:
            found = table.header
            return IndexInfo(name, table.count(), found.embedder, found.dimension, table.version)

        check_name(name)
        return self._tables.read(name, described)

    def upsert(
        self,
        name: str,
        chunks: Sequence[Chunk],
        vectors: NDArray[np.float32],
        embedder: str,
        partial: Mapping[str, int] | None = None,
    ) -> IngestReport:
        """Store `chunks` with their `vectors` float32 `[chunks, dimension]`; the first creates the index.

        All older chunks of the documents that `chunks` belong to are replaced, in the same commit, so that
        repeating an upsert changes nothing. Vectors are stored with length 1. Of the documents in `partial`
        other upserts store the rest: only what lies beyond the number of chunks given there is removed.

        Raises `ValueError` for no chunks, two chunks of one id, or vectors of another shape or not finite;
        `IndexMismatchError` if the index holds vectors of another embedder or dimension; `IndexBusyError`;
        `UnwritableError` if it cannot be written, and then the index is as it was.
        """
        check_name(name)
        unit = normalized(checked(vectors, len(chunks)))
        _check_chunks(chunks)
        with self._tables.writing(name) as index:
            found = index.header or Header.new(embedder, unit.shape[1])
            self._check_match(name, found, embedder, unit.shape[1])
            return index.put(found, chunks, unit, partial or {})

    def tidy(self, name: str) -> None:
        """Lay out index `name` anew, without what only versions older than ten seconds hold.

        No search finds anything else, and interrupting it does no harm. Raises `IndexBusyError`, and
        `UnwritableError` if what is there cannot be written anew: then all stays as it was.
        """
        check_name(name)
        with self._tables.writing(name) as index:
            if index.header is None:
                raise UnknownIndexError(name, self.names())
            before, after = index.tidy()
            with self._loading[name]:
                known = self._loaded.get(name)
                if known is not None and known.version == before:
                    self._loaded[name] = known._replace(version=after)

    def search(
        self,
        name: str,
        queries: Sequence[str],
        vectors: NDArray[np.float32] | None,
        ks: Sequence[int],
        mode: Mode,
        where: Where = (),
    ) -> list[list[Passage]]:
        """For each of `queries` its best passages, at most `ks[i]`, best first; ties go by id.

        Only passages that meet the condition `where` are found.
        `vectors` float32 `[queries, dimension]` are those of `queries`; lexical search needs none. Scores:
        BM25 (lexical; only passages that share a term with the query), cosine (vector), reciprocal-rank
        fusion of both (hybrid). A blank query finds nothing. What an upsert has stored before, in this
        process or another, is found.

        Raises `ValueError` if `mode` is unknown, a `k` is less than 1, the lengths differ, or vectors are
        needed and missing; `IndexMismatchError` if they have another dimension than the index.
        """
        _check_search(queries, ks, mode)
        return self.newest(name).search(queries, vectors, ks, mode, where)

    def newest(self, name: str) -> IndexVersion:
        """Index `name` as it is now."""
        check_name(name)
        return self._tables.read(
            name, lambda table: IndexVersion(name, table.header, self._snapshot(name, table))
        )

    def neighbours(
        self, name: str, passages: Sequence[Passage], preceding: int, following: int
    ) -> list[Passage]:
        """Each of `passages` among its neighbours; see `Snapshot.neighbours`.

        Raises `ValueError` for a passage of another index.
        """
        check_name(name)
        snapshot = self._tables.read(name, lambda table: self._snapshot(name, table))
        return snapshot.neighbours(passages, preceding, following)

    def changed(self, name: str, chunks: Sequence[Chunk], embedder: str) -> list[Chunk]:
        """The chunks of those documents that index `name` does not hold exactly as they are.

        Raises `ValueError` for no chunks or two of one id, and `IndexMismatchError` if the index holds
        vectors of another embedder. An index that does not exist holds nothing.
        """
        check_name(name)
        _check_chunks(chunks)
        documents: dict[str, set[Chunk]] = {}
        for chunk in chunks:
            documents.setdefault(chunk.document, set()).add(chunk)

        def held(table: Table) -> dict[str, set[Chunk]]:
            self._check_match(name, table.header, embedder, table.header.dimension)
            return table.chunks(documents)

        try:
            stored = self._tables.read(name, held)
        except UnknownIndexError:
            return list(chunks)
        same = {document for document, parts in documents.items() if parts == stored.get(document)}
        return [chunk for chunk in chunks if chunk.document not in same]

    def drop(self, name: str) -> None:
        """Remove index `name`."""
        check_name(name)
        if not self._tables.drop(name):
            raise UnknownIndexError(name, self.names())
        self._loaded.pop(name, None)

    def close(self) -> None:
        """Let go of where they lie."""
        self._tables.close()

    def _snapshot(self, name: str, table: Table) -> Snapshot:
        found, version = table.header, table.version
        with self._loading[name]:
            known = self._loaded.get(name)
            if known is not None and known.snapshot.key[0] != found.identity:
                known = None  # of an index of this name before
            if known is not None and known.version == version:
                return known.snapshot
            terms = None if known is None else known.snapshot.lasting_terms
            fresh = load((found.identity, version), table.rows(), terms)
            if known is None or known.version < version:  # another thread may have seen a newer one
                self._loaded[name] = _Loaded(fresh, version)
            return fresh

    def _check_match(self, name: str, existing: Header, embedder: str, dimension: int) -> None:
        if (existing.embedder, existing.dimension) != (embedder, dimension):
            raise IndexMismatchError(
                f"index {name!r} holds vectors of {existing.embedder!r} (dimension {existing.dimension}), "
                f"not of {embedder!r} (dimension {dimension}); "
                f"ingest into another index, or {self._tables.remedy(name)}"
            )


def _check_chunks(chunks: Sequence[Chunk]) -> None:
    if not chunks:
        raise ValueError("there are no passages to ingest: the documents hold no text")
    seen: set[str] = set()
    for chunk in chunks:
        if chunk.id in seen:
            raise ValueError(f"two passages have the id {chunk.id!r}; ids of documents must differ")
        seen.add(chunk.id)


def _check_search(queries: Sequence[str], ks: Sequence[int], mode: Mode) -> None:
    if mode not in ("vector", "lexical", "hybrid"):
        raise ValueError(f"mode must be 'vector', 'lexical' or 'hybrid', not {mode!r}")
    if len(ks) != len(queries):
        raise ValueError(f"{len(queries)} queries need as many k, not {len(ks)}")
    if wrong := [k for k in ks if k < 1]:
        raise ValueError(f"k must be at least 1, not {wrong[0]}")
