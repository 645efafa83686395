"""What outlives the server: the runs that belong to no client's stream, and how they ended.

It is in a SQLite file or in a PostgreSQL database, which are one server's alone and take no more than so many
bytes, half of them for outcomes. One thread writes. What is put while it writes becomes its next transaction,
and nobody waits for the disk but who asks to. If too much waits, because the disk is slow or hangs or the
database does not answer, nothing more is taken.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final, NamedTuple

from pydantic import SecretStr

from .journal_file import open_file
from .journal_store import (
    Begin,
    Change,
    Conclude,
    End,
    Forget,
    JournalError,
    Left,
    Put,
    Store,
    Submit,
    UnreachableError,
    UnwrittenError,
)

__all__ = ["Journal", "open_journal"]

_WAITING_BYTES: Final = 2**26  # of writes that wait for the disk
_STALLED_S: Final = 1.0  # without a transaction that ends: what comes at once is no sign of a slow disk
_WRITE_BYTES: Final = 2**10  # that a write takes besides its values, about
_DISK_S: Final = 10.0  # for which who asks waits for the disk
_AGAIN_S: Final = 0.5  # until a database that could not be reached is tried again

_log = logging.getLogger(__name__)


class _Write(NamedTuple):
    run: str
    changes: Sequence[Change] = ()
    done: asyncio.Future[None] | None = None
    ends: bool = False
    lost: JournalError | None = None  # why something that should be among the changes is not

    @property
    def size(self) -> int:
        """The bytes that it takes while it waits, about."""
        values = chain.from_iterable(self.changes)
        return _WRITE_BYTES + sum(len(value) for value in values if isinstance(value, bytes))


def open_journal(where: Path | SecretStr, max_bytes: int) -> tuple[Journal, Left]:
    """The journal in a file, or in the PostgreSQL database with that URL, and what is in it.

    It is made if it is not there. Raises JournalError.
    """
    store, left = open_file(where, max_bytes) if isinstance(where, Path) else _open_database(where, max_bytes)
    return Journal(store, left, max_bytes // 2), left


def _open_database(url: SecretStr, max_bytes: int) -> tuple[Store, Left]:
    try:
        from .journal_postgres import open_database  # only here: most servers do without
    except ImportError as problem:
        message = f"the journal in PostgreSQL cannot be opened: {problem}; pip install 'weft[postgres]'"
        raise JournalError(message) from None
    return open_database(url.get_secret_value(), max_bytes)


class Journal:
    """An open journal. Its methods belong to one event loop, and none of them waits for the disk.

    Of a run that is not in it, because it has ended or could not be written, no results are kept. Of outcomes
    it keeps the last that `outcome_bytes` hold.
    """

    def __init__(self, store: Store, left: Left, outcome_bytes: int) -> None:
        self._store = store
        self._outcome_bytes = outcome_bytes
        self._outcomes = OrderedDict((run, len(outcome)) for run, outcome in left.outcomes.items())
        self._writes: SimpleQueue[_Write | None] = SimpleQueue()
        self._put_bytes = 0
        self._written_bytes = 0  # by the thread
        self._stirred = 0.0  # when a transaction last ended, or what waits now began to
        self._trouble = ""  # why the database cannot be reached, while it cannot
        self._closing = threading.Event()
        self._lost: dict[str, JournalError] = {}  # by run: why something of it could not be written
        self._thread = threading.Thread(target=self._serve, name="weft-journal", daemon=True)
        self._thread.start()

    @property
    def size(self) -> int:
        """The bytes that it took before the last write; of a database, without what that adds."""
        return self._store.size

    @property
    def pending(self) -> int:
        """Writes that are not on the disk yet, about."""
        return self._writes.qsize()

    def submit(self, run: str, started_unix_s: float, request: bytes) -> None:
        """Keep a run. Raises JournalError if too much waits for the disk."""
        write = _Write(run, [Submit(run, started_unix_s, request)])
        if self._too_much(write):
            raise self._behind()
        self._put(write)

    def put(self, run: str, key: bytes, results: bytes) -> None:
        """Keep results of a run."""
        write = _Write(run, [Put(run, key, results)])
        self._put(_Write(run, lost=self._behind()) if self._too_much(write) else write)

    def begin(self, run: str, place: str) -> asyncio.Future[None]:
        """Keep that what stands at that place of a run may have run; done when that is on the disk.

        Raises JournalError, also for a run that is not in the journal.
        """
        return self._promise(run, [Begin(run, place)])

    def end(self, run: str, outcome: bytes) -> None:
        """Keep of a run nothing but its outcome, if that is not larger than all outcomes may be."""
        changes: list[Change] = [End(run)]
        if self._outcomes.pop(run, None) is not None:
            changes.append(Forget(run))
        conclude = Conclude(run, outcome)
        lost = self._behind() if self._too_much(_Write(run, [conclude])) else None
        if len(outcome) <= self._outcome_bytes and lost is None:
            changes.append(conclude)
            self._outcomes[run] = len(outcome)
        while sum(self._outcomes.values()) > self._outcome_bytes:
            oldest, _ = self._outcomes.popitem(last=False)
            changes.append(Forget(oldest))
        self._put(_Write(run, changes, ends=True, lost=lost))

    def forget(self, run: str) -> None:
        """Keep the outcome of a run no longer."""
        if self._outcomes.pop(run, None) is not None:
            self._put(_Write(run, [Forget(run)]))

    async def written(self, run: str) -> None:
        """Wait until all that was put of a run is on the disk.

        Raises JournalError if the disk takes too long, or if something of the run could not be written since
        this was asked last.
        """
        try:
            await asyncio.wait_for(self._promise(run), _DISK_S)
        except TimeoutError:
            raise self._late(f"its {self._store.medium} has not taken it for {_DISK_S:g} s") from None

    async def close(self) -> None:
        """Write what is left, if that can be, and let go of the database."""
        self._closing.set()
        self._writes.put(None)
        await asyncio.to_thread(self._thread.join)

    def _promise(self, run: str, changes: Sequence[Change] = ()) -> asyncio.Future[None]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._put(_Write(run, changes, done))
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
        return self._late(f"too much waits for its {self._store.medium}")

    def _late(self, why: str) -> JournalError:
        trouble = f": {self._trouble}" if self._trouble else ""
        remedy = f"see to that {self._store.medium}; the server goes on by itself when it takes writes again"
        return self._unwritten(f"{why}{trouble}", remedy)

    def _unwritten(self, why: str, remedy: str) -> JournalError:
        return JournalError(f"the journal {self._store.name!r} cannot be written ({why}); {remedy}")

    # ---- in the thread

    def _serve(self) -> None:
        undeleted: list[_Write] = []
        closing = False
        while not closing:
            taken = self._take()
            if not taken:
                self._make(())
            closing = None in taken
            writes = [write for write in taken if write is not None]
            outcomes = self._write([*undeleted, *writes])
            self._written_bytes += sum(write.size for write in writes)
            self._stirred = time.monotonic()
            for write, problem in outcomes:  # who hears of it may put more at once
                self._tell(write, problem or write.lost)
            failed = [write for write, problem in outcomes if problem is not None]
            undeleted = [_Write(write.run, [End(write.run)], ends=True) for write in failed if write.ends]
        self._store.close()

    def _take(self) -> list[_Write | None]:
        """All that waits, as soon as there is something; nothing if the store wants to be looked after."""
        taken = []
        with suppress(Empty):
            taken.append(self._writes.get(timeout=self._store.check_s))
            while True:
                taken.append(self._writes.get_nowait())
        return taken

    def _write(self, batch: list[_Write]) -> list[tuple[_Write, JournalError | None]]:
        """Write all in one transaction, or if that fails, each in its own; why some cannot be written."""
        problem = self._commit(batch)
        if problem is not None and len(batch) > 1:
            return [outcome for each in batch for outcome in self._write([each])]
        return [(write, problem) for write in batch]

    def _commit(self, batch: list[_Write]) -> JournalError | None:
        changes = [change for write in batch for change in write.changes]
        return self._make(changes) if changes else None

    def _make(self, changes: Sequence[Change]) -> JournalError | None:
        """Write changes, as soon as the database can be reached; why they cannot be written."""
        while True:
            try:
                self._store.write(changes)
            except UnwrittenError as problem:
                return self._unwritten(str(problem), problem.remedy)
            except UnreachableError as problem:
                if not self._trouble:
                    _log.warning("the journal %r cannot be reached: %s", self._store.name, problem)
                self._trouble = str(problem)
                if self._closing.wait(_AGAIN_S):
                    return self._late("the server stops")
            else:
                if self._trouble:
                    _log.warning("the journal %r takes writes again", self._store.name)
                self._trouble = ""
                return None

    def _tell(self, write: _Write, problem: JournalError | None) -> None:
        if write.ends:
            self._lost.pop(write.run, None)
            concludes = any(isinstance(change, Conclude) for change in write.changes)
            if problem is not None and (write.lost or concludes):
                _log.error("run %s: %s; how it ended is not kept over a restart", write.run, problem)
        elif write.done is None:
            if problem is not None and self._lost.setdefault(write.run, problem) is problem:
                _log.error("run %s: %s; what is not in it runs again after a restart", write.run, problem)
        else:
            if not write.changes:
                problem = self._lost.pop(write.run, None)
            with suppress(RuntimeError):  # that the loop is closed
                write.done.get_loop().call_soon_threadsafe(_settle, write.done, problem)


def _settle(done: asyncio.Future[None], problem: JournalError | None) -> None:
    if done.done():
        return  # whoever asked has gone away
    if problem is None:
        done.set_result(None)
    else:
        done.set_exception(problem)
