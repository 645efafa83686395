"""The runs that a server speaks of: those that live, and the last that are over."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

from weft.proto import orchestrator_pb2 as pb

from .door import DoorError
from .record import RunRecord

__all__ = ["Records"]

_KEPT_RUNS: Final = 1000  # of those of streams, and of those of none
_KEPT_BYTES: Final = 64 * 2**20  # of each
_DAY_S: Final = 24 * 3600.0
_KEPT_S: Final = {False: _DAY_S, True: 7 * _DAY_S}  # by whether a run is `lasting`


class Records(dict[str, RunRecord]):
    """Records by the ids of their runs, oldest first."""

    def __init__(self) -> None:
        super().__init__()
        # by whether they are `lasting`, in the order of their ends, each with its size
        self._over: dict[bool, deque[tuple[RunRecord, int]]] = {False: deque(), True: deque()}
        self._bytes = {False: 0, True: 0}
        self._inner: dict[str, dict[str, RunRecord]] = {}  # by the run that has started them; none is over

    def add(self, record: RunRecord) -> None:
        """Speak of a run."""
        self[record.id] = record
        if record.parent:
            self._inner.setdefault(record.parent, {})[record.id] = record

    def take_up(self, result: pb.RunResult, now: float) -> None:
        """Speak of a detached run that was over before this server began."""
        record = RunRecord.of(result, now)
        self.add(record)
        self.ended(record)

    def find(self, run_id: str) -> RunRecord:
        """What is known of a run. Raises DoorError."""
        if run_id not in self:
            raise DoorError.not_found(
                f"unknown run {run_id!r}; the server keeps the last {_KEPT_RUNS} finished runs of a day, "
                f"and the last {_KEPT_RUNS} detached ones of a week, fewer if they are large"
            )
        return self[run_id]

    def inner(self, run_id: str) -> list[RunRecord]:
        """The runs that a run has started and that are not over."""
        return list(self._inner.get(run_id, {}).values())

    def ended(self, record: RunRecord) -> None:
        """A run is over; it may be forgotten when many others are, too."""
        siblings = self._inner.get(record.parent, {})
        siblings.pop(record.id, None)
        if not siblings:
            self._inner.pop(record.parent, None)
        size = record.size
        self._over[record.lasting].append((record, size))
        self._bytes[record.lasting] += size

    def forget_old(self, now: float) -> Iterator[RunRecord]:
        """Forget runs of long ago, and those that take too much besides the last; which."""
        for lasting, over in self._over.items():
            while over and (
                len(over) > _KEPT_RUNS
                or now - over[0][0].ended_s > _KEPT_S[lasting]
                or (len(over) > 1 and self._bytes[lasting] > _KEPT_BYTES)
            ):
                record, size = over.popleft()
                self._bytes[lasting] -= size
                yield self.pop(record.id)
