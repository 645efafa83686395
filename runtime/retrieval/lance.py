"""How indexes lie in a folder: LanceDB tables whose schemas carry what weft must know of them.

Every change is one atomic commit of LanceDB, so an interrupted one leaves the state before it. Writers of one
index take turns by a lock file: LanceDB's merge does not notice two writers that insert the same new ids.
Readers take no lock: they look up the newest version (about a millisecond).

Every change adds files, and LanceDB keeps those of the versions before. So whoever writes tidies up now and
then, which merges the files of an index and removes what only older versions hold. A reader that is loading
one of these takes the newest instead.
"""

from __future__ import annotations

import importlib
import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from .documents import Chunk
from .errors import CorruptIndexError, IndexBusyError, UnknownIndexError, UnwritableError
from .folder import INDEXES, expect_writable
from .tables import FORMAT, Header, IngestReport, Read, Rows, Table, metadata_text

__all__ = ["LanceTable", "LanceTables"]

_LOCK_SECONDS = 120.0  # a writer waits this long for the one before it
_KEEP_OLD_FILES = timedelta(seconds=10)  # longer than they are read for, so that what begins anew ends
_CACHE = 2 << 20  # bytes; LanceDB's own limits, which what it keeps of every version comes to, are GiB
_LINE_OF_CODE = re.compile(r", /\S+\.rs:[\d:]+$")


class LanceTables:
    """The indexes in one folder: `Tables`."""

    kind = "LanceDB"
    shared = False

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)

    def prepare(self) -> None:
        """Make the folder."""
        expect_writable(self._path)

    def names(self) -> list[str]:
        """See `Tables`."""
        if not self._path.is_dir():
            return []
        folders = sorted(folder.stem for folder in self._path.glob("*.lance"))
        return [name for name in folders if self.exists(name)]

    def exists(self, name: str) -> bool:
        """Whether index `name` has a version; a first ingest that was interrupted leaves a folder without."""
        versions = self._path / f"{name}.lance" / "_versions"
        return versions.is_dir() and any(versions.glob("*.manifest"))

    def read(self, name: str, read: Callable[[Table], Read]) -> Read:
        """See `Tables`.

        Where the files go while they are read, because newer versions have come and the index was tidied up,
        the newest is read.
        """
        version = -1
        while True:
            try:
                table = self._open(name)
                version = table.version
                with self._expect_readable(name):
                    return read(LanceTable(table, self._header(name, table)))
            except CorruptIndexError:
                if self._open(name).version == version:
                    raise

    @contextmanager
    def writing(self, name: str) -> Iterator[_LanceWriting]:
        """See `Tables`."""
        with self._locked(name), _quiet(), self._expect_room(name):
            if self.exists(name):
                table = self._open(name)
                yield _LanceWriting(self._database, name, table, self._header(name, table))
            else:
                yield _LanceWriting(self._database, name, None, None)

    def drop(self, name: str) -> bool:
        """See `Tables`."""
        with self._locked(name), _quiet():
            there = self.exists(name)
            if there:
                self._database.drop_table(name)
        return there

    def close(self) -> None:
        """Nothing is open."""

    def remedy(self, name: str) -> str:
        """See `Tables`."""
        return f"remove its folder {INDEXES}/{name}.lance in the data folder, and ingest its documents again"

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
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

    @cached_property
    def _database(self) -> Any:
        """The connection to the folder; imports LanceDB, which takes a second or two the first time."""
        self._path.mkdir(parents=True, exist_ok=True)
        with _quiet():
            lancedb: Any = importlib.import_module("lancedb")
            session = lancedb.Session(index_cache_size_bytes=_CACHE, metadata_cache_size_bytes=_CACHE)
            return lancedb.connect(self._path, session=session)

    def _open(self, name: str) -> Any:
        """The table of index `name` at its newest version."""
        if not self.exists(name):
            raise UnknownIndexError(name, self.names())
        with self._expect_readable(name):
            return self._database.open_table(name)

    def _header(self, name: str, table: Any) -> Header:
        """What the table of index `name` says of itself; `CorruptIndexError` if weft did not write it."""
        found = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        if found.get("weft.format") != FORMAT:
            raise CorruptIndexError(
                f"index {name!r} was not written by this version of weft "
                f"(format {found.get('weft.format')!r}, not {FORMAT!r}); {self.remedy(name)}"
            )
        return Header(found["weft.identity"], found["weft.embedder"], int(found["weft.dimension"]))

    @contextmanager
    def _expect_readable(self, name: str) -> Iterator[None]:
        """Say what it means for the index that LanceDB cannot read its files."""
        try:
            with _quiet():
                yield
        except (ValueError, RuntimeError, OSError) as error:
            if not self.exists(name):  # dropped by another process in the meantime
                raise UnknownIndexError(name, self.names()) from error
            raise CorruptIndexError(
                f"index {name!r} cannot be read ({_reason(error)}); {self.remedy(name)}"
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


class LanceTable:
    """See `Table`."""

    def __init__(self, table: Any, header: Header) -> None:
        self._table = table
        self.header = header
        self.version = int(table.version)

    def count(self) -> int:
        """See `Table`."""
        return int(self._table.count_rows())

    def chunks(self, documents: Iterable[str]) -> dict[str, set[Chunk]]:
        """See `Table`."""
        columns = ["id", "document", "text", "source", "position", "metadata"]
        names = ", ".join(map(_quoted, documents))
        found = self._table.search().where(f"document IN ({names})").select(columns).limit(None).to_list()
        stored: dict[str, set[Chunk]] = {}
        for row in found:
            row["metadata"] = json.loads(row["metadata"])
            stored.setdefault(row["document"], set()).add(Chunk(**row))
        return stored

    def rows(self) -> Rows:
        """See `Table`."""
        columns = self._table.to_arrow().sort_by("id")
        vectors = columns["vector"].combine_chunks().flatten().to_numpy()
        ids, texts, sources, metadata = (columns[c].to_pylist() for c in ("id", "text", "source", "metadata"))
        return Rows(ids, texts, sources, metadata, vectors.reshape(-1, self.header.dimension))


class _LanceWriting:
    """See `Writing`."""

    def __init__(self, database: Any, name: str, table: Any, header: Header | None) -> None:
        self._database = database
        self._name = name
        self._table = table
        self.header = header

    def put(
        self, of: Header, chunks: Sequence[Chunk], vectors: NDArray[np.float32], partial: Mapping[str, int]
    ) -> IngestReport:
        data = _arrow_rows(chunks, vectors, of)
        if self.header is None:
            table = self._database.create_table(self._name, data=data, schema=_schema(of))
            return IngestReport(len(chunks), 0, table.version)
        merged = _merge(self._table, chunks, data, partial)
        replaced = merged.num_updated_rows + merged.num_deleted_rows
        return IngestReport(merged.num_inserted_rows, replaced, self._table.version)

    def tidy(self) -> tuple[int, int]:
        before = self._table.version
        self._table.optimize(cleanup_older_than=_KEEP_OLD_FILES)
        return before, self._table.version


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep LanceDB's notes on its own deprecated parts from callers that turn warnings into errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def _reason(error: Exception) -> str:
    """What LanceDB says, without the line of its code that says it."""
    return _LINE_OF_CODE.sub("", str(error))


def _schema(of: Header) -> Any:
    """The Arrow schema of an index."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("document", pa.string(), nullable=False),
            pa.field("text", pa.string(), nullable=False),
            pa.field("source", pa.string(), nullable=False),
            pa.field("position", pa.int32(), nullable=False),
            pa.field("metadata", pa.string(), nullable=False),  # a JSON object
            pa.field("vector", pa.list_(pa.float32(), of.dimension), nullable=False),
        ],
        metadata={
            "weft.format": FORMAT,
            "weft.identity": of.identity,
            "weft.embedder": of.embedder,
            "weft.dimension": str(of.dimension),
        },
    )


def _arrow_rows(chunks: Sequence[Chunk], vectors: NDArray[np.float32], of: Header) -> Any:
    """The Arrow table of `chunks` with `vectors` `[chunks, dimension]`."""
    import pyarrow as pa

    fields = _schema(of)
    columns = [
        [chunk.id for chunk in chunks],
        [chunk.document for chunk in chunks],
        [chunk.text for chunk in chunks],
        [chunk.source for chunk in chunks],
        [chunk.position for chunk in chunks],
        [metadata_text(chunk) for chunk in chunks],
    ]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, fields, strict=False)]
    arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), of.dimension))
    return pa.table(arrays, schema=fields)


def _quoted(text: str) -> str:
    """A text as a literal of LanceDB's filters."""
    return "'" + text.replace("'", "''") + "'"


def _merge(table: Any, chunks: Sequence[Chunk], data: Any, partial: Mapping[str, int]) -> Any:
    """One commit: `data` in place of every row of its documents that no other upsert stores."""
    documents = {chunk.document for chunk in chunks}
    whole = ", ".join(map(_quoted, sorted(documents - partial.keys())))
    stale = [f"document IN ({whole})"] if whole else []
    stale += [
        f"(document = {_quoted(name)} AND position > {size})"
        for name, size in sorted(partial.items())
        if name in documents
    ]
    change = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
    return change.when_not_matched_by_source_delete(" OR ".join(stale)).execute(data)
