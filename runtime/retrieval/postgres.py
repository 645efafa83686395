"""How indexes lie in a PostgreSQL database: two tables in a schema of their own, for all who share it.

Writers of one index take turns by an advisory lock, which ends with their transaction; a writer that freezes
or vanishes loses it in a minute. Readers take no lock: each reads in one transaction that sees one version.
What was replaced goes with the server's own vacuuming, so that there is nothing to tidy up.

Texts are `bytea`, in UTF-8: `text` takes no zero bytes, and depends on the encoding of the database.
Documents are looked up by their digest, as an index of PostgreSQL takes no long ids.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from operator import itemgetter
from typing import Any, Final, NamedTuple
from uuid import UUID

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import IsolationLevel
from psycopg.errors import UndefinedTable

from weft.runtime.postgres import (
    IDLE_S,
    PROBE_S,
    PROBES,
    Connection,
    Connections,
    line,
    make_schema,
    parameters_of,
    shown,
)

from .documents import Chunk
from .errors import (
    CorruptIndexError,
    IndexBusyError,
    IndexServerError,
    RetrievalError,
    UnknownIndexError,
    UnwritableError,
)
from .tables import FORMAT, Header, IngestReport, Read, Rows, Table, metadata_text

__all__ = ["PostgresTable", "PostgresTables"]

_LOCK_SECONDS = 120.0  # a writer waits this long for the one before it
_FROZEN_SECONDS = 60.0  # a writer that says nothing for so long loses its transaction
_NUMBER: Final = np.dtype("<f4")

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS weft_indexes.indexes (
    name text PRIMARY KEY,
    identity uuid NOT NULL UNIQUE,
    format text NOT NULL,
    embedder text NOT NULL,
    dimension integer NOT NULL,
    version bigint NOT NULL,
    passages bigint NOT NULL
);
CREATE TABLE IF NOT EXISTS weft_indexes.passages (
    index uuid NOT NULL REFERENCES weft_indexes.indexes (identity) ON DELETE CASCADE,
    id bytea NOT NULL,
    document bytea NOT NULL,
    text bytea NOT NULL,
    source bytea NOT NULL,
    position bigint NOT NULL,
    metadata bytea NOT NULL,  -- a JSON object
    vector bytea NOT NULL  -- of numbers of 4 bytes, the lowest first
);
CREATE INDEX IF NOT EXISTS passages_of_document ON weft_indexes.passages (index, sha256(document))
"""
_LIMITS: Final = f"""
SELECT set_config('lock_timeout', %s, true), set_config('idle_in_transaction_session_timeout', %s, true),
set_config('tcp_keepalives_idle', '{IDLE_S}', true), set_config('tcp_keepalives_interval', '{PROBE_S}', true),
set_config('tcp_keepalives_count', '{PROBES}', true)
"""
_LOCK: Final = "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))"
_FIND: Final = """
SELECT identity, format, embedder, dimension, version, passages FROM weft_indexes.indexes WHERE name = %s
"""
_CHUNKS: Final = """
SELECT id, document, text, source, position, metadata
FROM weft_indexes.passages WHERE index = %s AND sha256(document) = ANY(%s)
"""
_ROWS: Final = "SELECT id, text, source, metadata, vector FROM weft_indexes.passages WHERE index = %s"
_MAKE: Final = """
INSERT INTO weft_indexes.indexes (name, identity, format, embedder, dimension, version, passages)
VALUES (%s, %s, %s, %s, %s, 0, 0)
"""
_REMOVE: Final = """
DELETE FROM weft_indexes.passages AS old USING unnest(%s::bytea[], %s::bigint[]) AS given (document, rest)
WHERE index = %s AND sha256(old.document) = given.document AND (position > rest OR id = ANY(%s))
RETURNING id
"""
_STORE: Final = """
COPY weft_indexes.passages (index, id, document, text, source, position, metadata, vector)
FROM STDIN (FORMAT BINARY)
"""
_COLUMNS: Final = ("uuid", "bytea", "bytea", "bytea", "bytea", "int8", "bytea", "bytea")
_COUNT: Final = """
UPDATE weft_indexes.indexes SET version = version + 1, passages = passages + %s WHERE name = %s
RETURNING version
"""
_DROP: Final = "DELETE FROM weft_indexes.indexes WHERE name = %s"

_BUSY: Final = "55P03"
_NO_RIGHT: Final = "42501"
_UNWRITABLE: Final = (_NO_RIGHT, "25006", "53", "58")
"""Codes of what keeps a database from being written: rights, being a copy, no disk or memory, a bad disk;"""
_FOREIGN: Final = "42"
"""of columns or tables that are missing or have other types;"""
_DAMAGED: Final = ("22", "XX")
"""of values, or files of the server, that cannot be read."""


class PostgresTables:
    """The indexes in one database: `Tables`."""

    kind = "PostgreSQL"
    shared = True

    def __init__(self, url: str) -> None:
        try:
            parameters = parameters_of(url, "weft indexes")
        except ValueError as problem:
            raise IndexServerError(f"the URL in `indexes` (WEFT_INDEXES) cannot be read; {problem}") from None
        self._place = shown(parameters)
        self._connections = Connections(parameters)

    def prepare(self) -> None:
        """Make the tables, if they are not there."""
        with self._changing() as connection:
            _make_tables(connection)

    def names(self) -> list[str]:
        """See `Tables`."""
        with self._reading() as connection:
            try:
                found = connection.execute("SELECT name FROM weft_indexes.indexes").fetchall()
            except UndefinedTable:
                return []
            return sorted(name for (name,) in found)

    def exists(self, name: str) -> bool:
        """See `Tables`."""
        return name in self.names()

    def read(self, name: str, read: Callable[[Table], Read]) -> Read:
        """See `Tables`."""
        with self._reading(name) as connection:
            found = self._found(connection, name)
            if found is not None:
                return read(PostgresTable(connection, found))
        raise UnknownIndexError(name, self.names())

    @contextmanager
    def writing(self, name: str) -> Iterator[_PostgresWriting]:
        """See `Tables`."""
        with self._changing(name) as connection:
            _make_tables(connection)
            yield _PostgresWriting(connection, name, self._found(connection, name))

    def drop(self, name: str) -> bool:
        """See `Tables`."""
        with self._changing(name) as connection:
            try:
                return connection.execute(_DROP, [name]).rowcount > 0
            except UndefinedTable:
                return False

    def close(self) -> None:
        """See `Tables`."""
        self._connections.close()

    def remedy(self, name: str) -> str:
        """See `Tables`."""
        statement = f"DELETE FROM weft_indexes.indexes WHERE name = '{name}'"
        return f'run "{statement}" in {self._place}, and ingest its documents again'

    def _found(self, connection: Connection, name: str) -> _Found | None:
        """What is said of index `name`; None: it does not exist."""
        try:
            row = connection.execute(_FIND, [name]).fetchone()
        except UndefinedTable:
            return None
        if row is None:
            return None
        identity, written, embedder, dimension, version, passages = row
        if written != FORMAT:
            raise CorruptIndexError(
                f"index {name!r} was not written by this version of weft "
                f"(format {written!r}, not {FORMAT!r}); {self.remedy(name)}"
            )
        return _Found(Header(identity.hex, embedder, dimension), version, passages)

    @contextmanager
    def _reading(self, name: str = "") -> Iterator[Connection]:
        """A transaction that sees one state of the database, for the sake of index `name` or of all."""
        try:
            with self._connections.transaction(IsolationLevel.REPEATABLE_READ) as connection:
                yield connection
        except psycopg.Error as error:
            raise self._problem(name, error) from error
        except ValueError as error:  # what is stored makes no sense
            raise self._damaged(name, str(error)) from error

    @contextmanager
    def _changing(self, name: str = "") -> Iterator[Connection]:
        """A transaction while no other changes index `name`, or makes the tables."""
        try:
            with self._connections.transaction(IsolationLevel.READ_COMMITTED) as connection:
                connection.execute(_LIMITS, [f"{_LOCK_SECONDS}s", f"{_FROZEN_SECONDS}s"])
                connection.execute(_LOCK, [f"weft index {name}"])
                yield connection
        except psycopg.Error as error:
            code = error.sqlstate or ""
            if code == _BUSY:
                raise IndexBusyError(
                    f"{_what(name)} has been written by another process for {_LOCK_SECONDS:.0f} s; try again"
                ) from error
            if code.startswith(_UNWRITABLE):
                raise UnwritableError(
                    f"{_what(name)} cannot be written ({line(error)}); see to it that the disk of "
                    f"{self._place} has room and that this user may write there, and ingest again"
                ) from error
            raise self._problem(name, error) from error

    def _problem(self, name: str, error: psycopg.Error) -> RetrievalError:
        """What it means for index `name`, or all, that the database does not do what is asked."""
        code = error.sqlstate or ""
        if code.startswith(_DAMAGED):
            return self._damaged(name, line(error))
        if code.startswith(_FOREIGN) and code != _NO_RIGHT:
            return CorruptIndexError(
                f"the tables in the schema weft_indexes of {self._place} are not those of this version of "
                f"weft ({line(error)}); drop the schema, and ingest all documents again"
            )
        return IndexServerError(
            f"indexes: {self._place} cannot be used ({line(error)}); see to it that the server runs and lets "
            "this user in, or correct `indexes` (WEFT_INDEXES), and try again"
        )

    def _damaged(self, name: str, reason: str) -> CorruptIndexError:
        remedy = self.remedy(name) if name else "restore it from a backup"
        return CorruptIndexError(f"{_what(name)} cannot be read ({reason}); {remedy}")


class _Found(NamedTuple):
    """What is said of an index."""

    header: Header
    version: int
    passages: int


class PostgresTable:
    """See `Table`."""

    def __init__(self, connection: Connection, found: _Found) -> None:
        self._connection = connection
        self.header, self.version, self._passages = found

    def count(self) -> int:
        """See `Table`."""
        return self._passages

    def chunks(self, documents: Iterable[str]) -> dict[str, set[Chunk]]:
        """See `Table`."""
        asked = [self.header.identity, list(map(_digest, documents))]
        stored: dict[str, set[Chunk]] = {}
        for *texts, position, metadata in self._binary(_CHUNKS, asked):
            id, document, text, source = (cell.decode() for cell in texts)
            chunk = Chunk(id, document, text, source, position, json.loads(metadata))
            stored.setdefault(document, set()).add(chunk)
        return stored

    def rows(self) -> Rows:
        """See `Table`."""
        found = sorted(self._binary(_ROWS, [self.header.identity]), key=itemgetter(0))
        if len(found) != self._passages:
            raise ValueError(f"it has {len(found)} passages of {self._passages}")
        width = self.header.dimension * _NUMBER.itemsize
        if any(len(row[4]) != width for row in found):
            raise ValueError(f"a vector is not of dimension {self.header.dimension}")
        ids, texts, sources, metadata = ([row[column].decode() for row in found] for column in range(4))
        vectors = np.frombuffer(b"".join(row[4] for row in found), _NUMBER)
        return Rows(ids, texts, sources, metadata, vectors.reshape(-1, self.header.dimension))

    def _binary(self, query: str, parameters: Sequence[object]) -> list[tuple[Any, ...]]:
        return self._connection.cursor(binary=True).execute(query, parameters).fetchall()


class _PostgresWriting:
    """See `Writing`."""

    def __init__(self, connection: Connection, name: str, found: _Found | None) -> None:
        self._connection = connection
        self._name = name
        self._found = found

    @property
    def header(self) -> Header | None:
        return None if self._found is None else self._found.header

    def put(
        self, of: Header, chunks: Sequence[Chunk], vectors: NDArray[np.float32], partial: Mapping[str, int]
    ) -> IngestReport:
        if self._found is None:
            values = (self._name, of.identity, FORMAT, of.embedder, of.dimension)
            self._connection.execute(_MAKE, values)
        ids = [chunk.id.encode() for chunk in chunks]
        documents = sorted({chunk.document for chunk in chunks})
        digests, rests = list(map(_digest, documents)), [partial.get(document, 0) for document in documents]
        old = self._connection.execute(_REMOVE, (digests, rests, of.identity, ids)).fetchall()
        self._store(of, chunks, vectors)
        growth = len(chunks) - len(old)
        ((version,),) = self._connection.execute(_COUNT, (growth, self._name)).fetchall()
        known = {bytes(id) for (id,) in old}
        return IngestReport(sum(id not in known for id in ids), len(old), version)

    def tidy(self) -> tuple[int, int]:
        version = 0 if self._found is None else self._found.version
        return version, version

    def _store(self, of: Header, chunks: Sequence[Chunk], vectors: NDArray[np.float32]) -> None:
        index = UUID(of.identity)
        with self._connection.cursor().copy(_STORE) as copy:
            copy.set_types(_COLUMNS)
            for chunk, vector in zip(chunks, vectors.astype(_NUMBER), strict=True):
                texts = (chunk.id, chunk.document, chunk.text, chunk.source)
                rest = (chunk.position, metadata_text(chunk).encode(), vector.tobytes())
                copy.write_row((index, *(text.encode() for text in texts), *rest))


def _make_tables(connection: Connection) -> None:
    """Make the tables if they are not there. Asks for no rights if they are."""
    ((there,),) = connection.execute("SELECT to_regclass('weft_indexes.indexes') IS NOT NULL").fetchall()
    if there:
        return
    connection.execute(_LOCK, ["weft index "])
    make_schema(connection, "weft_indexes")
    connection.execute(_TABLES)


def _what(name: str) -> str:
    return f"index {name!r}" if name else "the place of the indexes"


def _digest(document: str) -> bytes:
    return sha256(document.encode()).digest()
