"""What a journal keeps, and what it asks of the database that holds it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple, Protocol

__all__ = [
    "VERSION",
    "Begin",
    "Change",
    "Conclude",
    "End",
    "Forget",
    "JournalError",
    "LastingRun",
    "Left",
    "Put",
    "Store",
    "Submit",
    "UnreachableError",
    "UnwrittenError",
    "read",
    "statements",
    "unusable",
]

VERSION: Final = 2
"""Of the tables, and of what stands in them."""


class JournalError(Exception):
    """The journal cannot be opened or written; the message names where it is and the remedy."""


class UnwrittenError(Exception):
    """Changes cannot be written, and none of them is."""

    def __init__(self, why: str, remedy: str) -> None:
        super().__init__(why)
        self.remedy = remedy


class UnreachableError(Exception):
    """A database does not answer at the moment; whether the changes are written, nobody knows."""


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


class Submit(NamedTuple):
    """A run begins."""

    run: str
    started_unix_s: float
    request: bytes


class Put(NamedTuple):
    """Results of a run that has not ended; of others nothing is kept."""

    run: str
    key: bytes
    results: bytes


class Begin(NamedTuple):
    """What stands at a place of a run may run from now on. Nothing for a run that is not there: an error."""

    run: str
    place: str


class End(NamedTuple):
    """Nothing is kept of a run any more but its outcome."""

    run: str


class Conclude(NamedTuple):
    """How a run has ended of which no outcome is there."""

    run: str
    outcome: bytes


class Forget(NamedTuple):
    """The outcome of a run is not kept any more."""

    run: str


Change = Submit | Put | Begin | End | Conclude | Forget

# A change may come twice, if nobody knows whether it was written; it makes no difference then.
_STATEMENTS: Final[dict[type[Change], tuple[str, ...]]] = {
    Submit: ("INSERT INTO runs (run, started, request) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",),
    Put: (
        "INSERT INTO results (run, key, results)"
        " SELECT ?1, ?2, ?3 WHERE EXISTS (SELECT 1 FROM runs WHERE run = ?1)"
        " ON CONFLICT (run, key) DO UPDATE SET results = excluded.results",
    ),
    Begin: ("INSERT INTO begun (run, place) VALUES (?1, ?2) ON CONFLICT DO NOTHING",),
    End: tuple(f"DELETE FROM {table} WHERE run = ?1" for table in ("begun", "results", "runs")),
    Conclude: ("INSERT INTO outcomes (run, outcome) VALUES (?1, ?2) ON CONFLICT DO NOTHING",),
    Forget: ("DELETE FROM outcomes WHERE run = ?1",),
}


class Store(Protocol):
    """A database that is one server's alone. One thread at a time uses it."""

    @property
    def name(self) -> str:
        """Where it is, for people."""

    @property
    def medium(self) -> str:
        """What may be slow or full, for people."""

    @property
    def check_s(self) -> float | None:
        """After how long without a change it wants to be written none; None: it does not."""

    @property
    def size(self) -> int:
        """What it took before the last write."""

    def write(self, changes: Sequence[Change]) -> None:
        """Make changes in one transaction. Raises UnwrittenError, or UnreachableError: try it again."""

    def close(self) -> None:
        """Let go of it."""


def statements(changes: Iterable[Change]) -> Iterable[tuple[str, Change]]:
    """The SQL of changes, each statement with its parameters ?1, ?2, …"""
    return ((statement, change) for change in changes for statement in _STATEMENTS[type(change)])


def read(select: Callable[[str], Iterable[tuple[Any, ...]]]) -> Left:
    """All that is in a database."""
    results: defaultdict[str, dict[bytes, bytes]] = defaultdict(dict)
    for run, key, result in select("SELECT run, key, results FROM results"):
        results[run][key] = result
    begun: defaultdict[str, set[str]] = defaultdict(set)
    for run, place in select("SELECT run, place FROM begun"):
        begun[run].add(place)
    runs = [
        LastingRun(run, started, request, results[run], frozenset(begun[run]))
        for run, started, request in select("SELECT run, started, request FROM runs ORDER BY rowid")
    ]
    outcomes = select("SELECT run, outcome FROM outcomes ORDER BY rowid")
    return Left(runs, dict(outcomes))


def unusable(name: str, why: str, remedy: str) -> JournalError:
    """The journal of that name cannot be opened."""
    return JournalError(f"the journal {name!r} cannot be opened: {why}; {remedy}")
