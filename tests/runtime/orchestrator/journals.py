"""Where the tests of journals have them: in files, and in databases."""

from __future__ import annotations

import asyncio
import shutil
from itertools import count
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from hypothesis import strategies as st
from pydantic import SecretStr

from weft.runtime.orchestrator.journal import Journal, open_journal
from weft.runtime.orchestrator.journal_file import FILE
from weft.runtime.orchestrator.journal_store import LastingRun, Left

from ...postgres import Postgres

__all__ = ["MOST", "OPERATIONS", "InDatabase", "InFile", "Place", "State", "perform"]

Kept = TypeVar("Kept")
MOST = 2**20
RUNS = st.sampled_from(["r-1", "r-2", "r-3"])
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), RUNS, st.binary(max_size=9)),
        st.tuples(st.just("put"), RUNS, st.sampled_from([b"a", b"b"]), st.binary(max_size=9000)),
        st.tuples(st.just("begin"), RUNS, st.sampled_from(["x", "y"])),
        st.tuples(st.just("end"), RUNS, st.binary(max_size=9)),
        st.tuples(st.just("forget"), RUNS),
        st.tuples(st.sampled_from(["crash", "close"])),
    ),
    max_size=25,
)
SERVERS = "FROM pg_stat_activity WHERE application_name = 'weft journal' AND datname = current_database()"


class Place(Protocol):
    """Where a journal is."""

    @property
    def name(self) -> str:
        """As messages have it."""

    def open(self) -> tuple[Journal, Left]:
        """The journal, as a server that starts has it."""

    async def crash(self, journal: Journal) -> None:
        """Let the next server find what this journal has written by now, and nothing more."""


class InFile:
    """In a file, and after a crash in a copy of it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lives = count(1)
        self.file = folder / "data" / FILE

    @property
    def name(self) -> str:
        return str(self.file)

    def open(self) -> tuple[Journal, Left]:
        return open_journal(self.file, MOST)

    async def crash(self, journal: Journal) -> None:
        copy = self._folder / str(next(self._lives))
        copy.mkdir()
        for part in self.file.parent.glob(f"{FILE}*"):
            shutil.copy(part, copy / part.name)
        self.file = copy / FILE
        await journal.close()


class InDatabase:
    """In a database, of which nothing is left that was in it."""

    def __init__(self, postgres: Postgres, database: str) -> None:
        self.postgres = postgres
        self.database = database
        self.execute(f"SELECT pg_terminate_backend(pid, 10000) {SERVERS}")  # those of a test that has failed
        self.execute("DROP SCHEMA IF EXISTS weft_journal CASCADE")

    @property
    def name(self) -> str:
        return f"postgresql://weft@{str(self.postgres.folder).replace('/', '%2F')}/{self.database}"

    def open(self) -> tuple[Journal, Left]:
        return open_journal(SecretStr(self.postgres.url(self.database)), MOST)

    async def crash(self, journal: Journal) -> None:
        self.cut_off()
        await journal.close()

    def cut_off(self) -> None:
        """End the connection of a server."""
        ended = self.execute(f"SELECT pg_terminate_backend(pid, 10000) {SERVERS}")
        assert ended == [(True,)]

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        return self.postgres.execute(statement, self.database)


class State(NamedTuple):
    """What a journal has."""

    runs: dict[str, LastingRun]
    outcomes: dict[str, bytes]

    def having(self, run: LastingRun) -> State:
        return self._replace(runs=self.runs | {run.run: run})

    def without(self, name: str) -> State:
        return State(_without(self.runs, name), _without(self.outcomes, name))

    @property
    def left(self) -> Left:
        return Left(list(self.runs.values()), self.outcomes)


def perform(journal: Journal, state: State, number: int, operation: tuple[object, ...]) -> State:
    """Do one thing; what the journal has then."""
    match operation:
        case ("submit", str(run), bytes(request)) if run not in state.runs:
            started = float(-number)  # as by a clock that is set back again and again
            journal.submit(run, started, request)
            return state.having(LastingRun(run, started, request, {}, frozenset()))
        case ("put", str(run), bytes(key), bytes(results)):
            journal.put(run, key, results)
            if known := state.runs.get(run):
                return state.having(known._replace(results=known.results | {key: results}))
        case ("begin", str(run), str(place)):
            journal.begin(run, place).add_done_callback(asyncio.Future.exception)
            if known := state.runs.get(run):
                return state.having(known._replace(begun=known.begun | {place}))
        case ("end", str(run), bytes(outcome)):
            journal.end(run, outcome)
            rest = state.without(run)
            return rest._replace(outcomes=rest.outcomes | {run: outcome})
        case ("forget", str(run)):
            journal.forget(run)
            return state._replace(outcomes=_without(state.outcomes, run))
    return state


def _without(kept: dict[str, Kept], name: str) -> dict[str, Kept]:
    return {key: value for key, value in kept.items() if key != name}
