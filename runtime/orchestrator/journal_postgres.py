"""The journal in a PostgreSQL database, in a schema of its own.

The connection holds a lock of the database, by which the journal is one server's alone; with the connection
the lock is lost. Therefore the server leaves its mark, too: who connects again and finds another's has been
followed by another server, and writes no more.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final
from uuid import uuid4

import psycopg

from weft.runtime.postgres import IDLE_S, PROBE_S, PROBES, Connection, line, make_schema, parameters_of, shown

from .journal_room import Room
from .journal_store import (
    VERSION,
    Change,
    JournalError,
    Left,
    UnreachableError,
    UnwrittenError,
    read,
    statements,
    unusable,
)

__all__ = ["DatabaseStore", "open_database"]

_SCHEMA: Final = "weft_journal"
_LOCK: Final = int.from_bytes(b"weft-run")
_LOCK_WAIT_S: Final = 2.0  # a server that is stopping may hold the lock for so long
_CHECK_S: Final = 5.0  # until it is noticed that the connection, and so the lock, has been lost
_SESSION: Final = f"""
SET synchronous_commit = on;  -- who is told that something is written relies on it
SET tcp_keepalives_idle = {IDLE_S};
SET tcp_keepalives_interval = {PROBE_S};
SET tcp_keepalives_count = {PROBES};
SET search_path = {_SCHEMA}
"""
_TABLES: Final = (
    "CREATE TABLE journal (version INTEGER NOT NULL, server TEXT NOT NULL)",
    "CREATE TABLE runs (run TEXT PRIMARY KEY, started DOUBLE PRECISION NOT NULL, request BYTEA NOT NULL,"
    " rowid BIGINT GENERATED ALWAYS AS IDENTITY)",
    "CREATE TABLE results (run TEXT, key BYTEA, results BYTEA NOT NULL, PRIMARY KEY (run, key))",
    "CREATE TABLE begun (run TEXT REFERENCES runs, place TEXT, PRIMARY KEY (run, place))",
    "CREATE TABLE outcomes (run TEXT PRIMARY KEY, outcome BYTEA NOT NULL,"
    " rowid BIGINT GENERATED ALWAYS AS IDENTITY)",
)
_MAKE_ROOM: Final = "make room on its disk, and see that it can be written"
_FOLLOWED: Final = "another server has taken it over"
_START_AGAIN: Final = "start this server again, if it is the one to go on"
_SEE_TO_IT: Final = (
    "see that the database is there and takes this user, or correct `journal` (WEFT_JOURNAL); "
    "if that is empty, the journal is a file"
)

_log = logging.getLogger(__name__)


class _HeldError(Exception):
    """Another server has the lock."""


class DatabaseStore:
    """An open database."""

    medium: Final = "database"
    check_s: Final = _CHECK_S

    def __init__(self, parameters: dict[str, Any], name: str, max_bytes: int) -> None:
        self.name = name
        self._parameters = parameters
        self._max_bytes = max_bytes
        self._mark = uuid4().hex
        self._followed = False
        self._connection: Connection | None = None
        self._room = Room(Left([], {}))

    @property
    def size(self) -> int:
        """What is kept in it, without what the database adds."""
        return self._room.size

    def open(self) -> Left:
        """Make it this server's; what is in it. Raises JournalError, _HeldError, and what psycopg does."""
        connection = self._connect()
        try:
            with connection.transaction():
                self._prepare(connection)
                left = read(lambda query: connection.execute(query).fetchall())
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        self._room = Room(left)
        return left

    def write(self, changes: Sequence[Change]) -> None:
        """Make changes in one transaction. Raises UnwrittenError and UnreachableError."""
        growth = self._room.growth(changes)
        if growth > 0 and self._room.size + growth > self._max_bytes:
            why = f"it would have more than {self._max_bytes / 2**20:g} MiB"
            raise UnwrittenError(why, "wait until runs have ended, or raise journal_mb in the settings")
        connection = self._connected()
        try:
            with connection.transaction(), connection.pipeline(), connection.cursor() as cursor:
                for statement, values in statements(changes):
                    cursor.execute(statement.replace("?", "$"), values)
        except psycopg.Error as problem:
            if connection.closed:
                self._connection = None
                raise UnreachableError(line(problem)) from None
            raise UnwrittenError(line(problem), _MAKE_ROOM) from None
        self._room.take(changes)

    def close(self) -> None:
        """Let go of the database."""
        if self._connection is not None:
            self._connection.close()

    def _connected(self) -> Connection:
        """The connection, or if that has been lost, another, if no other server has been there meanwhile."""
        if self._connection is not None:
            return self._connection
        if self._followed:
            raise UnwrittenError(_FOLLOWED, _START_AGAIN)
        try:
            connection = self._connect()
        except psycopg.Error as problem:
            raise UnreachableError(line(problem)) from None
        except _HeldError:
            raise UnreachableError("another server uses it, or seems to") from None
        try:
            (mark,) = connection.execute("SELECT server FROM journal").fetchone() or ("",)
        except psycopg.Error as problem:
            connection.close()
            raise UnreachableError(line(problem)) from None
        if mark != self._mark:
            connection.close()
            self._followed = True
            _log.error("the journal %r is not written any more: %s; %s", self.name, _FOLLOWED, _START_AGAIN)
            raise UnwrittenError(_FOLLOWED, _START_AGAIN)
        self._connection = connection
        return connection

    def _connect(self) -> Connection:
        """A connection that holds the lock. Raises _HeldError, and what psycopg does."""
        connection = psycopg.connect(**self._parameters, autocommit=True, cursor_factory=psycopg.RawCursor)
        try:
            connection.execute(_SESSION)
            connection.execute(f"SET lock_timeout = {round(1000 * _LOCK_WAIT_S)}")
            connection.execute("SELECT pg_advisory_lock($1)", [_LOCK])
            connection.execute("SET lock_timeout = DEFAULT")
        except psycopg.errors.LockNotAvailable:
            connection.close()
            raise _HeldError from None
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: Connection) -> None:
        """Make the tables if they are not there, and leave the mark."""
        (there,) = connection.execute("SELECT to_regclass('journal') IS NOT NULL").fetchone() or (False,)
        if not there:
            make_schema(connection, _SCHEMA)
            for table in _TABLES:
                connection.execute(table)
            connection.execute("INSERT INTO journal VALUES ($1, '')", [VERSION])
        (version,) = connection.execute("SELECT version FROM journal").fetchone() or (0,)
        if version != VERSION:
            why = f"it is of version {version}, and this weft reads version {VERSION}"
            remedy = f"start the weft that wrote it, or drop the schema {_SCHEMA}: its runs are lost then"
            raise unusable(self.name, why, remedy)
        connection.execute("UPDATE journal SET server = $1", [self._mark])


def open_database(url: str, max_bytes: int) -> tuple[DatabaseStore, Left]:
    """The database with that URL, and what is in it. Raises JournalError."""
    try:
        parameters = parameters_of(url, "weft journal")
    except ValueError as problem:
        raise JournalError(f"the URL in `journal` (WEFT_JOURNAL) cannot be read; {problem}") from None
    store = DatabaseStore(parameters, shown(parameters), max_bytes)
    try:
        return store, store.open()
    except _HeldError:
        remedy = "stop that, set `journal` to another database, or `journal_mb` to 0 (WEFT_JOURNAL_MB=0)"
        raise unusable(store.name, "another server uses it", remedy) from None
    except psycopg.Error as problem:
        raise unusable(store.name, line(problem), _SEE_TO_IT) from None
