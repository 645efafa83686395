"""The runs that a server speaks of: those that live, and the last that are over."""

from __future__ import annotations

from collections import deque
from typing import Final

from .door import DoorError
from .record import RunRecord

__all__ = ["Records"]

_KEPT_RUNS: Final = 1000
_KEPT_S: Final = 24 * 3600.0


class Records(dict[str, RunRecord]):
    """Records by the ids of their runs, oldest first."""

    def __init__(self) -> None:
        super().__init__()
        self._over: deque[RunRecord] = deque()  # in the order of their ends

    def add(self, record: RunRecord) -> None:
        """Speak of a run."""
        self[record.id] = record

    def find(self, run_id: str) -> RunRecord:
        """What is known of a run. Raises DoorError."""
        if run_id not in self:
            raise DoorError.not_found(
                f"unknown run {run_id!r}; the server keeps the last {_KEPT_RUNS} finished runs"
            )
        return self[run_id]

    def ended(self, record: RunRecord) -> None:
        """A run is over; it may be forgotten when many others are, too."""
        self._over.append(record)

    def forget_old(self, now: float) -> None:
        """Forget runs of long ago."""
        while len(self._over) > _KEPT_RUNS or now - self._over[0].started_s - self._over[0].seconds > _KEPT_S:
            del self[self._over.popleft().id]
