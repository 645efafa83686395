"""How many runs there have been, and how they ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from weft.runtime.scheduler.faults import CODES

from .door import DoorError
from .record import RunRecord, State

__all__ = ["OTHER", "Counts", "bounded"]

OTHER: Final = "other"


@dataclass(eq=False)
class Counts:
    """Counters of a server's runs, since its start."""

    started: int = 0
    """Those that an earlier server has left are among them."""
    refused: Counter[str] = field(default_factory=Counter)
    """Requests for runs, by the gRPC status that says why."""
    ended: Counter[State] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    """Runs by the code of what went wrong; `other`: one that only a client's program knows."""

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Count a run that is started in the block, or its refusal."""
        try:
            yield
        except DoorError as problem:
            self.refused[problem.status.name.lower()] += 1
            raise
        self.started += 1

    def over(self, record: RunRecord) -> None:
        """Count a run that has ended."""
        self.ended[record.state] += 1
        if record.fault is not None and record.state == "failed":
            self.failed[bounded(record.fault.code)] += 1


def bounded(code: str) -> str:
    """The code of a fault, of which clients may make up any number."""
    return code if code in CODES else OTHER
