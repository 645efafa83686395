"""The store of indexes: embedded LanceDB on disk, searched through snapshots in memory.

Every change is one atomic commit of LanceDB, so an interrupted one leaves the state before it. Writers of one
index take turns by a lock file: LanceDB's merge does not notice two writers that insert the same new ids.
Readers take no lock: they look up the newest version (about a millisecond) and load it if it is new to them.
"""

from __future__ import annotations

import re
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from .documents import Chunk, Passage
from .errors import (
    CorruptIndexError,
    IndexBusyError,
    IndexMismatchError,
    UnknownIndexError,
    UnwritableError,
)
from .filters import Where
from .folder import expect_writable
from .snapshot import Mode, Snapshot
from .tables import (
    Header,
    check_name,
    connect,
    drop_and_ingest,
    header,
    load,
    quiet,
    quoted,
    rows,
    schema,
    stored_chunks,
)
from .vectors import checked, normalized

__all__ = ["IndexInfo", "IndexStore", "IndexVersion", "IngestReport"]

_LOCK_SECONDS = 120.0  # a writer waits this long for the one before it
_MAX_FRAGMENTS = 32  # files of one index; beyond, they are merged into one
_VERSIONS = 64  # of one index, after so many the files of old ones are removed
_LINE_OF_CODE = re.compile(r", /\S+\.rs:[\d:]+$")
_KEEP_OLD_FILES = timedelta(hours=1)  # a reader that has just opened an older version still finds its files


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """What is known of an index without reading its passages."""

    name: str
    passages: int
    embedder: str
    """The `name` of the embedder whose vectors it holds: queries must be embedded by the same one."""
    dimension: int
    version: int
    """Grows with every change."""


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What one upsert did."""

    passages_added: int
    """Passages whose id is new."""
    passages_replaced: int
    """Old passages of the same documents that were overwritten or, having no successor, removed."""
    version: int
    """The version of the index after it."""


class IndexStore:
    """The indexes in one folder. Safe for many threads, and for many processes that open the same folder.

    Methods that take `name` raise `ValueError` if it cannot name an index, and, where the index must exist,
    `UnknownIndexError` if it does not and `CorruptIndexError` if its files cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._snapshots: dict[str, Snapshot] = {}
        self._loading: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)  # by index

    def names(self) -> list[str]:
        """The existing indexes, sorted."""
        if not self._path.is_dir():
            return []
        folders = sorted(folder.stem for folder in self._path.glob("*.lance"))
        return [name for name in folders if self._committed(name)]

    def exists(self, name: str) -> bool:
        """Whether there is an index `name`."""
        check_name(name)
        return self._committed(name)

    def describe(self, name: str) -> IndexInfo:
        """The size, embedder and version of index `name`."""
        table = self._open(name)
        found = header(name, table)
        with self._expect_readable(name):
            passages = table.count_rows()
        return IndexInfo(name, passages, found.embedder, found.dimension, table.version)

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
        `UnwritableError` if its files cannot be written, and then the index is as it was.
        """
        check_name(name)
        unit = normalized(checked(vectors, len(chunks)))
        _check_chunks(chunks)
        with self._writing(name), quiet():
            if not self._committed(name):
                fresh = Header.new(embedder, unit.shape[1])
                data = rows(chunks, unit, fresh)
                with self._expect_room(name):
                    table = self._database.create_table(name, data=data, schema=schema(fresh))
                return IngestReport(len(chunks), 0, table.version)
            table = self._open(name)
            existing = header(name, table)
            _check_match(name, existing, embedder, unit.shape[1])
            data = rows(chunks, unit, existing)
            with self._expect_room(name):
                merged = _merge(table, chunks, data, partial or {})
                _compact(table)
        replaced = merged.num_updated_rows + merged.num_deleted_rows
        return IngestReport(merged.num_inserted_rows, replaced, table.version)

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
        table = self._open(name)
        return IndexVersion(self, name, table, header(name, table))

    def neighbours(
        self, name: str, passages: Sequence[Passage], preceding: int, following: int
    ) -> list[Passage]:
        """Each of `passages` among its neighbours; see `Snapshot.neighbours`.

        Raises `ValueError` for a passage of another index.
        """
        table = self._open(name)
        return self._snapshot(name, table, header(name, table)).neighbours(passages, preceding, following)

    def changed(self, name: str, chunks: Sequence[Chunk], embedder: str) -> list[Chunk]:
        """The chunks of those documents that index `name` does not hold exactly as they are.

        Raises `ValueError` for no chunks or two of one id, and `IndexMismatchError` if the index holds
        vectors of another embedder. An index that does not exist holds nothing.
        """
        check_name(name)
        _check_chunks(chunks)
        if not self._committed(name):
            return list(chunks)
        table = self._open(name)
        existing = header(name, table)
        _check_match(name, existing, embedder, existing.dimension)
        documents: dict[str, set[Chunk]] = {}
        for chunk in chunks:
            documents.setdefault(chunk.document, set()).add(chunk)
        with self._expect_readable(name):
            stored = stored_chunks(table, documents)
        same = {document for document, parts in documents.items() if parts == stored.get(document)}
        return [chunk for chunk in chunks if chunk.document not in same]

    def drop(self, name: str) -> None:
        """Remove index `name` and its files."""
        check_name(name)
        with self._writing(name), quiet():
            if not self._committed(name):
                raise UnknownIndexError(name, self.names())
            self._database.drop_table(name)
            self._snapshots.pop(name, None)

    @cached_property
    def _database(self) -> Any:
        self._path.mkdir(parents=True, exist_ok=True)
        return connect(self._path)

    def _committed(self, name: str) -> bool:
        """Whether index `name` has a version; a first ingest that was interrupted leaves a folder without."""
        versions = self._path / f"{name}.lance" / "_versions"
        return versions.is_dir() and any(versions.glob("*.manifest"))

    def _open(self, name: str) -> Any:
        """The table of index `name` at its newest version."""
        check_name(name)
        if not self._committed(name):
            raise UnknownIndexError(name, self.names())
        with self._expect_readable(name):
            return self._database.open_table(name)

    def _snapshot(self, name: str, table: Any, found: Header) -> Snapshot:
        key = (found.identity, int(table.version))
        with self._loading[name]:
            known = self._snapshots.get(name)
            if known is not None and known.key == key:
                return known
            same = known is not None and known.key[0] == found.identity
            with self._expect_readable(name):
                fresh = load(key, table, found.dimension, known.terms if known and same else None)
            if not (known and same and known.key[1] > key[1]):  # another thread may have seen a newer one
                self._snapshots[name] = fresh
            return fresh

    @contextmanager
    def _expect_readable(self, name: str) -> Iterator[None]:
        """Say what it means for the index that LanceDB cannot read its files."""
        try:
            with quiet():
                yield
        except (ValueError, RuntimeError, OSError) as error:
            if not self._committed(name):  # dropped by another process in the meantime
                raise UnknownIndexError(name, self.names()) from error
            raise CorruptIndexError(
                f"index {name!r} cannot be read ({_reason(error)}); {drop_and_ingest(name)}"
            ) from error

    @contextmanager
    def _expect_room(self, name: str) -> Iterator[None]:
        """Say what it means for the index that LanceDB cannot write its files."""
        try:
            yield
        except (RuntimeError, OSError) as error:
            raise UnwritableError(
                f"index {name!r} cannot be written ({_reason(error)}); see to it that the disk of "
                f"{str(self._path)!r} has room and can be written, and ingest again"
            ) from error

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        """Hold the lock of index `name` against every other writer, of this process or another."""
        expect_writable(self._path)
        lock = FileLock(self._path / f"{name}.lock")
        try:
            lock.acquire(timeout=_LOCK_SECONDS)
        except Timeout as error:
            raise IndexBusyError(
                f"index {name!r} has been written by another process for {_LOCK_SECONDS:.0f} s; try again"
            ) from error
        try:
            yield
        finally:
            lock.release()


@dataclass(frozen=True, slots=True)
class IndexVersion:
    """An index at one version: what it gives for a search never changes."""

    _store: IndexStore
    _name: str
    _table: Any
    _header: Header

    @property
    def key(self) -> tuple[str, int]:
        """The identity of the index, and its version: equal keys, equal passages."""
        return self._header.identity, int(self._table.version)

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
        return self._store._snapshot(name, self._table, found).search(queries, unit, ks, mode, where)


def _merge(table: Any, chunks: Sequence[Chunk], data: Any, partial: Mapping[str, int]) -> Any:
    """One commit: `data` in place of every row of its documents that no other upsert stores."""
    documents = {chunk.document for chunk in chunks}
    whole = ", ".join(map(quoted, sorted(documents - partial.keys())))
    stale = [f"document IN ({whole})"] if whole else []
    stale += [
        f"(document = {quoted(name)} AND position > {size})"
        for name, size in sorted(partial.items())
        if name in documents
    ]
    merge = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
    return merge.when_not_matched_by_source_delete(" OR ".join(stale)).execute(data)


def _compact(table: Any) -> None:
    """Merge the files of `table` if they are many, and remove those of old versions: each upsert adds one.

    Upserts that replace all that is there leave one file, however many they are, and versions without end.
    """
    fragments = table.stats()["fragment_stats"]["num_fragments"]
    if fragments > _MAX_FRAGMENTS or table.version % _VERSIONS == 0:
        table.optimize(cleanup_older_than=_KEEP_OLD_FILES)
        table.checkout_latest()


def _reason(error: Exception) -> str:
    """What LanceDB says, without the line of its code that says it."""
    return _LINE_OF_CODE.sub("", str(error))


def _check_chunks(chunks: Sequence[Chunk]) -> None:
    if not chunks:
        raise ValueError("there are no passages to ingest: the documents hold no text")
    seen: set[str] = set()
    for chunk in chunks:
        if chunk.id in seen:
            raise ValueError(f"two passages have the id {chunk.id!r}; ids of documents must differ")
        seen.add(chunk.id)


def _check_match(name: str, existing: Header, embedder: str, dimension: int) -> None:
    if (existing.embedder, existing.dimension) != (embedder, dimension):
        raise IndexMismatchError(
            f"index {name!r} holds vectors of {existing.embedder!r} (dimension {existing.dimension}), "
            f"not of {embedder!r} (dimension {dimension}); "
            f"ingest into another index, or {drop_and_ingest(name)}"
        )


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


def _check_search(queries: Sequence[str], ks: Sequence[int], mode: Mode) -> None:
    if mode not in ("vector", "lexical", "hybrid"):
        raise ValueError(f"mode must be 'vector', 'lexical' or 'hybrid', not {mode!r}")
    if len(ks) != len(queries):
        raise ValueError(f"{len(queries)} queries need as many k, not {len(ks)}")
    if wrong := [k for k in ks if k < 1]:
        raise ValueError(f"k must be at least 1, not {wrong[0]}")
