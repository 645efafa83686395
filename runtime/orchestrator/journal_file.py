"""The journal in a SQLite file, which takes no more than so many bytes."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Final

from .journal_store import VERSION, Change, Left, UnwrittenError, read, statements, unusable

__all__ = ["FILE", "FileStore", "open_file"]

FILE: Final = "runs.sqlite"
"""The file of the journal within the data folder."""

_PAGE_BYTES: Final = 4096
_LOCK_WAIT_S: Final = 2.0  # a server that is stopping may hold the file for so long
_LOG_BYTES: Final = 2**22  # the write-ahead log is cut to that when its pages are in the file
_TABLES: Final = (  # that each version has brought
    (
        "CREATE TABLE runs (run TEXT PRIMARY KEY, started REAL NOT NULL, request BLOB NOT NULL)",
        "CREATE TABLE results (run TEXT, key BLOB, results BLOB NOT NULL, PRIMARY KEY (run, key))",
        "CREATE TABLE begun (run TEXT REFERENCES runs, place TEXT, PRIMARY KEY (run, place))",
    ),
    ("CREATE TABLE outcomes (run TEXT PRIMARY KEY, outcome BLOB NOT NULL)",),
)
_MAKE_ROOM: Final = "make room on its disk, see that it can be written, or raise journal_mb in the settings"


class FileStore:
    """An open file, and its log, which SQLite makes at once and removes at the end."""

    medium: Final = "disk"
    check_s: Final = None

    def __init__(self, file: Path, database: sqlite3.Connection) -> None:
        self.name = str(file)
        self._database = database
        self._paths = (str(file), f"{file}-wal")
        found = self._stat()
        self._places = _places(found)
        self.size = _bytes(found)

    def write(self, changes: Sequence[Change]) -> None:
        """Make changes in one transaction. Raises UnwrittenError."""
        found = self._stat()
        self.size = _bytes(found)
        if _places(found) != self._places:
            raise UnwrittenError("it has been moved or removed", "put it back, or start the server again")
        try:
            self._database.execute("BEGIN")
            for statement, values in statements(changes):
                self._database.execute(statement, values)
            self._database.execute("COMMIT")
        except sqlite3.Error as problem:
            with suppress(sqlite3.Error):  # that there is no transaction any more
                self._database.execute("ROLLBACK")
            raise UnwrittenError(str(problem), _MAKE_ROOM) from None

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def _stat(self) -> list[os.stat_result]:
        """Of the files; none if one has gone."""
        try:
            return list(map(os.stat, self._paths))
        except OSError:
            return []


def open_file(file: Path, max_bytes: int) -> tuple[FileStore, Left]:
    """The file, which is made if it is not there, and what is in it. Raises JournalError."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as problem:
        remedy = "set `data` to a folder that can be written"
        raise unusable(str(file), problem.strerror or str(problem), remedy) from None
    database = sqlite3.connect(file, timeout=_LOCK_WAIT_S, isolation_level=None, check_same_thread=False)
    try:
        _prepare(file, database, max_bytes)
        return FileStore(file, database), read(lambda query: database.execute(query).fetchall())
    except sqlite3.Error as problem:
        database.close()
        if problem.sqlite_errorname == "SQLITE_BUSY":
            remedy = "stop that, set `data` to another folder, or `journal_mb` to 0 (WEFT_JOURNAL_MB=0)"
            raise unusable(str(file), "another server uses it", remedy) from None
        remedy = "make room on its disk, or move it away: its runs are lost then"
        raise unusable(str(file), str(problem), remedy) from None
    except BaseException:
        database.close()
        raise


def _prepare(file: Path, database: sqlite3.Connection, max_bytes: int) -> None:
    database.execute("PRAGMA locking_mode = EXCLUSIVE")
    (version,) = database.execute("PRAGMA user_version").fetchone()
    (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if version > VERSION or bool(version) != bool(tables):
        why = f"it is of version {version}, and this weft reads version {VERSION}"
        remedy = "start the weft that wrote it, or move the file away: its runs are not taken up then"
        raise unusable(str(file), why, remedy)
    (state,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if state != "ok":
        raise unusable(str(file), f"it is damaged: {state}", "move it away: its runs are lost")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute("PRAGMA foreign_keys = ON")
    database.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
    database.execute(f"PRAGMA max_page_count = {max_bytes // _PAGE_BYTES}")
    if version == VERSION:  # nothing is written: a server must start on a full disk, too
        return
    database.execute("BEGIN IMMEDIATE")
    for statement in chain(*_TABLES[version:], [f"PRAGMA user_version = {VERSION}"]):
        database.execute(statement)
    database.execute("COMMIT")


def _places(found: Sequence[os.stat_result]) -> list[tuple[int, int]]:
    """Which files they are."""
    return [(each.st_dev, each.st_ino) for each in found]


def _bytes(found: Sequence[os.stat_result]) -> int:
    return sum(each.st_size for each in found)
