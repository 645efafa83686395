"""What outlives the server: the runs that belong to no client's stream, and how they ended, in a SQLite file.

One thread writes. What is put while it writes becomes its next transaction, and nobody waits for the disk but
who asks to. If too much waits, because the disk is slow or hangs, nothing more is taken. The file is this
process's alone and takes no more than so many bytes, half of them for outcomes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from queue import SimpleQueue
from typing import Final, NamedTuple

__all__ = ["FILE", "Journal", "JournalError", "LastingRun", "Left", "open_journal"]

FILE: Final = "runs.sqlite"
"""The file of the journal within the data folder."""

_PAGE_BYTES: Final = 4096
_LOCK_WAIT_S: Final = 2.0  # a server that is stopping may hold the file for so long
_LOG_BYTES: Final = 2**22  # the write-ahead log is cut to that when its pages are in the file
_WAITING_BYTES: Final = 2**26  # of writes that wait for the disk
_STALLED_S: Final = 1.0  # without a transaction that ends: what comes at once is no sign of a slow disk
_WRITE_BYTES: Final = 2**10  # that a write takes besides its values, about
_DISK_S: Final = 10.0  # for which who asks waits for the disk

_TABLES: Final = (  # that each version has brought
    (
        "CREATE TABLE runs (run TEXT PRIMARY KEY, started REAL NOT NULL, request BLOB NOT NULL)",
        "CREATE TABLE results (run TEXT, key BLOB, results BLOB NOT NULL, PRIMARY KEY (run, key))",
        "CREATE TABLE begun (run TEXT REFERENCES runs, place TEXT, PRIMARY KEY (run, place))",
    ),
    ("CREATE TABLE outcomes (run TEXT PRIMARY KEY, outcome BLOB NOT NULL)",),
)
_VERSION: Final = len(_TABLES)  # of the tables, and of what stands in them
_SUBMIT: Final = "INSERT INTO runs VALUES (?, ?, ?)"
_PUT: Final = (
    "INSERT OR REPLACE INTO results SELECT ?1, ?2, ?3 WHERE EXISTS (SELECT 1 FROM runs WHERE run = ?1)"
)
_BEGIN: Final = "INSERT OR REPLACE INTO begun VALUES (?, ?)"
_END: Final = tuple(f"DELETE FROM {table} WHERE run = ?" for table in ("begun", "results", "runs"))
_CONCLUDE: Final = "INSERT OR REPLACE INTO outcomes VALUES (?, ?)"
_FORGET: Final = "DELETE FROM outcomes WHERE run = ?"

_MAKE_ROOM: Final = "make room on its disk, see that it can be written, or raise journal_mb in the settings"
_SEE_TO_DISK: Final = "see to that disk; the server goes on by itself when it takes writes again"

_log = logging.getLogger(__name__)


class JournalError(Exception):
    """The journal cannot be opened or written; the message names the file and the remedy."""


class LastingRun(NamedTuple):
    """A run that had not ended."""

    run: str
    started_unix_s: float
    request: bytes
    results: dict[bytes, bytes]  # of its primitives, by what they are results of
    begun: frozenset[str]  # the places of those that may have run, and must not run twice


class Left(NamedTuple):
    """What an earlier server has left."""

    runs: list[LastingRun]  # oldest first
    outcomes: dict[str, bytes]  # by run, in the order of their ends


_Statement = tuple[str, tuple[str | float | bytes, ...]]


class _Write(NamedTuple):
    run: str
    statements: Sequence[_Statement] = ()
    done: asyncio.Future[None] | None = None
    ends: bool = False
    lost: JournalError | None = None  # why something that should be among the statements is not

    @property
    def size(self) -> int:
        """The bytes that it takes while it waits, about."""
        values = chain.from_iterable(values for _, values in self.statements)
        return _WRITE_BYTES + sum(len(value) for value in values if isinstance(value, bytes))


def open_journal(file: Path, max_bytes: int) -> tuple[Journal, Left]:
    """The journal in a file, which is made if it is not there, and what is in it. Raises JournalError."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as problem:
        remedy = "set `data` to a folder that can be written"
        raise _unusable(file, problem.strerror or str(problem), remedy) from None
    database = sqlite3.connect(file, timeout=_LOCK_WAIT_S, isolation_level=None, check_same_thread=False)
    try:
        _prepare(file, database, max_bytes)
        left = _read(database)
        return Journal(file, database, left, max_bytes // 2), left
    except sqlite3.Error as problem:
        database.close()
        if problem.sqlite_errorname == "SQLITE_BUSY":
            remedy = "stop that, set `data` to another folder, or `journal_mb` to 0 (WEFT_JOURNAL_MB=0)"
            raise _unusable(file, "another server uses it", remedy) from None
        remedy = "make room on its disk, or move it away: its runs are lost then"
        raise _unusable(file, str(problem), remedy) from None
    except JournalError:
        database.close()
        raise


def _prepare(file: Path, database: sqlite3.Connection, max_bytes: int) -> None:
    database.execute("PRAGMA locking_mode = EXCLUSIVE")
    (version,) = database.execute("PRAGMA user_version").fetchone()
    (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if version > _VERSION or bool(version) != bool(tables):
        why = f"it is of version {version}, and this weft reads version {_VERSION}"
        remedy = "start the weft that wrote it, or move the file away: its runs are not taken up then"
        raise _unusable(file, why, remedy)
    (state,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if state != "ok":
        raise _unusable(file, f"it is damaged: {state}", "move it away: its runs are lost")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute("PRAGMA foreign_keys = ON")
    database.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
    database.execute(f"PRAGMA max_page_count = {max_bytes // _PAGE_BYTES}")
    if version == _VERSION:  # nothing is written: a server must start on a full disk, too
        return
    database.execute("BEGIN IMMEDIATE")
    for statement in chain(*_TABLES[version:], [f"PRAGMA user_version = {_VERSION}"]):
        database.execute(statement)
    database.execute("COMMIT")


def _read(database: sqlite3.Connection) -> Left:
    runs = []
    for run, started, request in database.execute("SELECT * FROM runs ORDER BY rowid").fetchall():
        results = database.execute("SELECT key, results FROM results WHERE run = ?", (run,)).fetchall()
        begun = database.execute("SELECT place FROM begun WHERE run = ?", (run,)).fetchall()
        places = frozenset(place for (place,) in begun)
        runs.append(LastingRun(run, started, request, dict(results), places))
    return Left(runs, dict(database.execute("SELECT run, outcome FROM outcomes ORDER BY rowid").fetchall()))


class Journal:
    """An open journal. Its methods belong to one event loop, and none of them waits for the disk.

    Of a run that is not in it, because it has ended or could not be written, no results are kept. Of outcomes
    it keeps the last that `outcome_bytes` hold.
    """

    def __init__(self, file: Path, database: sqlite3.Connection, left: Left, outcome_bytes: int) -> None:
        self._file = file
        self._outcome_bytes = outcome_bytes
        self._outcomes = OrderedDict((run, len(outcome)) for run, outcome in left.outcomes.items())
        self._database = database
        self._writes: SimpleQueue[_Write | None] = SimpleQueue()
        self._put_bytes = 0
        self._written_bytes = 0  # by the thread
        self._stirred = 0.0  # when a transaction last ended, or what waits now began to
        self._paths = (
            str(file),
            f"{file}-wal",
        )  # and its log, which SQLite makes at once, removes at the end
        found = self._stat()
        self._places = _places(found)
        self.bytes = _bytes(found)
        """What the files took on the disk before the last write."""
        self._lost: dict[str, JournalError] = {}  # by run: why something of it could not be written
        self._thread = threading.Thread(target=self._serve, name="weft-journal", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        """Writes that are not on the disk yet, about."""
        return self._writes.qsize()

    def submit(self, run: str, started_unix_s: float, request: bytes) -> None:
        """Keep a run. Raises JournalError if too much waits for the disk."""
        write = _Write(run, [(_SUBMIT, (run, started_unix_s, request))])
        if self._too_much(write):
            raise self._behind()
        self._put(write)

    def put(self, run: str, key: bytes, results: bytes) -> None:
        """Keep results of a run."""
        write = _Write(run, [(_PUT, (run, key, results))])
        self._put(_Write(run, lost=self._behind()) if self._too_much(write) else write)

    def begin(self, run: str, place: str) -> asyncio.Future[None]:
        """Keep that what stands at that place of a run may have run; done when that is on the disk.

        Raises JournalError, also for a run that is not in the journal.
        """
        return self._promise(run, [(_BEGIN, (run, place))])

    def end(self, run: str, outcome: bytes) -> None:
        """Keep of a run nothing but its outcome, if that is not larger than all outcomes may be."""
        statements = _end(run)
        conclude = (_CONCLUDE, (run, outcome))
        lost = self._behind() if self._too_much(_Write(run, [conclude])) else None
        if len(outcome) <= self._outcome_bytes and lost is None:
            statements.append(conclude)
            self._outcomes[run] = len(outcome)
        while sum(self._outcomes.values()) > self._outcome_bytes:
            oldest, _ = self._outcomes.popitem(last=False)
            statements.append((_FORGET, (oldest,)))
        self._put(_Write(run, statements, ends=True, lost=lost))

    def forget(self, run: str) -> None:
        """Keep the outcome of a run no longer."""
        if self._outcomes.pop(run, None) is not None:
            self._put(_Write(run, [(_FORGET, (run,))]))

    async def written(self, run: str) -> None:
        """Wait until all that was put of a run is on the disk.

        Raises JournalError if the disk takes too long, or if something of the run could not be written since
        this was asked last.
        """
        try:
            await asyncio.wait_for(self._promise(run), _DISK_S)
        except TimeoutError:
            raise self._unwritten(f"its disk has not taken it for {_DISK_S:g} s", _SEE_TO_DISK) from None

    async def close(self) -> None:
        """Write what is left, and let go of the file."""
        self._writes.put(None)
        await asyncio.to_thread(self._thread.join)

    def _promise(self, run: str, statements: Sequence[_Statement] = ()) -> asyncio.Future[None]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._put(_Write(run, statements, done))
        return done

    def _put(self, write: _Write) -> None:
        if self._put_bytes == self._written_bytes:
            self._stirred = time.monotonic()
        self._put_bytes += write.size
        self._writes.put(write)

    def _too_much(self, write: _Write) -> bool:
        """Whether a write is not to wait besides those that do; alone, each may."""
        waiting = self._put_bytes - self._written_bytes
        if not waiting or waiting + write.size <= _WAITING_BYTES:
            return False
        return time.monotonic() - self._stirred >= _STALLED_S

    def _behind(self) -> JournalError:
        return self._unwritten("too much waits for its disk", _SEE_TO_DISK)

    def _unwritten(self, why: str, remedy: str) -> JournalError:
        return JournalError(f"the journal {str(self._file)!r} cannot be written ({why}); {remedy}")

    # ---- in the thread

    def _serve(self) -> None:
        undeleted: list[_Write] = []
        closing = False
        while not closing:
            taken = [self._writes.get()]
            while not self._writes.empty():
                taken.append(self._writes.get())
            closing = None in taken
            writes = [write for write in taken if write is not None]
            outcomes = self._write([*undeleted, *writes])
            self._written_bytes += sum(write.size for write in writes)
            self._stirred = time.monotonic()
            for write, problem in outcomes:  # who hears of it may put more at once
                self._tell(write, problem or write.lost)
            failed = [write for write, problem in outcomes if problem is not None]
            undeleted = [_Write(write.run, _end(write.run), ends=True) for write in failed if write.ends]
        self._database.close()

    def _write(self, batch: list[_Write]) -> list[tuple[_Write, JournalError | None]]:
        """Write all in one transaction, or if that fails, each in its own; why some cannot be written."""
        problem = self._commit(batch)
        if problem is not None and len(batch) > 1:
            return [outcome for each in batch for outcome in self._write([each])]
        return [(write, problem) for write in batch]

    def _commit(self, batch: list[_Write]) -> JournalError | None:
        if not any(write.statements for write in batch):
            return None
        found = self._stat()
        self.bytes = _bytes(found)
        if _places(found) != self._places:
            return self._unwritten("it has been moved or removed", "put it back, or start the server again")
        try:
            self._database.execute("BEGIN")
            for write in batch:
                for statement in write.statements:
                    self._database.execute(*statement)
            self._database.execute("COMMIT")
        except sqlite3.Error as problem:
            with suppress(sqlite3.Error):  # that there is no transaction any more
                self._database.execute("ROLLBACK")
            return self._unwritten(str(problem), _MAKE_ROOM)
        return None

    def _stat(self) -> list[os.stat_result]:
        """Of the files; none if one has gone."""
        try:
            return list(map(os.stat, self._paths))
        except OSError:
            return []

    def _tell(self, write: _Write, problem: JournalError | None) -> None:
        if write.ends:
            self._lost.pop(write.run, None)
            if problem is not None and (write.lost or len(write.statements) > len(_END)):
                _log.error("run %s: %s; how it ended is not kept over a restart", write.run, problem)
        elif write.done is None:
            if problem is not None and self._lost.setdefault(write.run, problem) is problem:
                _log.error("run %s: %s; what is not in it runs again after a restart", write.run, problem)
        else:
            if not write.statements:
                problem = self._lost.pop(write.run, None)
            with suppress(RuntimeError):  # that the loop is closed
                write.done.get_loop().call_soon_threadsafe(_settle, write.done, problem)


def _end(run: str) -> list[_Statement]:
    return [(statement, (run,)) for statement in _END]


def _places(found: Sequence[os.stat_result]) -> list[tuple[int, int]]:
    """Which files they are."""
    return [(each.st_dev, each.st_ino) for each in found]


def _bytes(found: Sequence[os.stat_result]) -> int:
    return sum(each.st_size for each in found)


def _settle(done: asyncio.Future[None], problem: JournalError | None) -> None:
    if done.done():
        return  # whoever asked has gone away
    if problem is None:
        done.set_result(None)
    else:
        done.set_exception(problem)


def _unusable(file: Path, why: str, remedy: str) -> JournalError:
    return JournalError(f"the journal {str(file)!r} cannot be opened: {why}; {remedy}")
