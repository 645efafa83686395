"""What runs have of the server's journal, whether it has one or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from weft.proto import orchestrator_pb2 as pb
from weft.runtime.config import Settings
from weft.runtime.scheduler.faults import Fault

from .door import not_begun
from .durable import Durable
from .journal import Journal, open_journal
from .journal_file import FILE
from .journal_store import JournalError, LastingRun, Left
from .record import RunRecord

__all__ = ["Keeping"]

_BYTES_PER_MB: Final = 2**20


class Usage(NamedTuple):
    """What a journal takes."""

    bytes: int  # on the disk, its log included
    pending: int  # writes


class Keeping:
    """The journal of a server, once it is open. `stir` and `fail` are those of `Durable`."""

    def __init__(
        self, settings: Settings, stir: Callable[[str, int], None], fail: Callable[[str, Fault], None]
    ) -> None:
        self._settings = settings
        self._stir = stir
        self._fail = fail
        self._journal: Journal | None = None
        self._closing: Journal | None = None

    def open(self) -> Left:
        """Keep runs from now on, if the settings say so; what is left. Raises JournalError."""
        if not self._settings.journal_mb:
            return Left([], {})
        where = self._settings.journal or self._settings.data / FILE
        self._journal, left = open_journal(where, self._settings.journal_mb * _BYTES_PER_MB)
        return left

    def leave(self) -> None:
        """Keep nothing more, and forget nothing: what lives now is left to the next server."""
        self._closing, self._journal = self._journal, None

    async def close(self) -> None:
        """Let go of the journal that was left."""
        if self._closing is not None:
            await self._closing.close()

    def usage(self) -> Usage | None:
        """What the journal takes, if there is one."""
        if self._journal is None:
            return None
        return Usage(self._journal.size, self._journal.pending)

    def durable(self, run_id: str, left: LastingRun | None = None) -> Durable | None:
        """The journal as a run sees it, if there is one."""
        if self._journal is None:
            return None
        return Durable(self._journal, run_id, left, stir=self._stir, fail=self._fail)

    def submit(self, record: RunRecord, request: pb.SubmitRequest) -> None:
        """Keep a run from now on. Raises DoorError if too much waits for the disk."""
        if self._journal is None:
            return
        try:
            self._journal.submit(record.id, record.started_unix_s, request.SerializeToString())
        except JournalError as problem:
            raise not_begun(problem) from None

    def end(self, record: RunRecord) -> None:
        """Of a run, keep how it has ended."""
        if self._journal is not None:
            self._journal.end(record.id, record.result().SerializeToString())

    def forget(self, run_id: str) -> None:
        """Nobody can ask any more how a run has ended."""
        if self._journal is not None:
            self._journal.forget(run_id)

    async def written(self, run_id: str) -> None:
        """Wait until all that is kept of a run is on the disk. Raises JournalError if some of it is not."""
        if self._journal is not None:
            await self._journal.written(run_id)
