"""The journal: what is written comes back, and what cannot be opened or written says so."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.runtime.orchestrator.journal import FILE, Journal, JournalError, LastingRun, Left, open_journal

from ...disk import files_of_at_most

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


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "data" / FILE


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


def copied(file: Path, folder: Path) -> Path:
    """What a server that is killed now leaves, in another folder."""
    folder.mkdir()
    for part in file.parent.glob(f"{file.name}*"):
        shutil.copy(part, folder / part.name)
    return folder / file.name


async def check(operations: list[tuple[object, ...]], folder: Path) -> None:
    file, state = folder / "0" / "runs.sqlite", State({}, {})
    journal, left = open_journal(file, MOST)
    assert left == Left([], {})
    for number, operation in enumerate(operations, 1):
        if operation == ("crash",):
            await journal.written("")
            killed, file = journal, copied(file, folder / str(number))
            await killed.close()
        elif operation == ("close",):
            await journal.close()
        else:
            state = perform(journal, state, number, operation)
            continue
        journal, left = open_journal(file, MOST)
        assert left == state.left
        assert list(left.outcomes) == list(state.outcomes)
    await journal.close()


@settings(max_examples=40, deadline=None)
@given(OPERATIONS)
def test_what_lives_comes_back_with_all_that_it_had(operations: list[tuple[object, ...]]) -> None:
    with TemporaryDirectory() as folder:
        asyncio.run(check(operations, Path(folder)))


async def torn(operations: list[tuple[object, ...]], folder: Path, cut: float) -> None:
    file, states = folder / "0" / "runs.sqlite", [State({}, {})]
    journal, _ = open_journal(file, MOST)
    for number, operation in enumerate(operations):
        states.append(perform(journal, states[-1], number, operation))
        await journal.written("")
    killed, file = journal, copied(file, folder / "1")
    await killed.close()
    log = file.with_name(f"{file.name}-wal")
    with log.open("r+b") as written:
        written.truncate(int(cut * log.stat().st_size))
    journal, left = open_journal(file, MOST)
    await journal.close()
    assert left in [state.left for state in states]
    if cut == 1.0:
        assert left == states[-1].left


@settings(max_examples=40, deadline=None)
@given(OPERATIONS.map(lambda found: [o for o in found if len(o) > 1]), st.floats(0, 1))
def test_a_log_that_was_being_written_gives_back_a_state_that_was(
    operations: list[tuple[object, ...]], cut: float
) -> None:
    with TemporaryDirectory() as folder:
        asyncio.run(torn(operations, Path(folder), cut))


async def test_the_file_is_its_users_alone_and_one_servers(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weft.runtime.orchestrator.journal._LOCK_WAIT_S", 0.0)
    journal, _ = open_journal(file, MOST)
    journal.submit("r", 1.0, b"")
    await journal.written("r")
    assert {part.stat().st_mode & 0o777 for part in file.parent.iterdir()} == {0o600}
    with pytest.raises(JournalError, match="another server uses it; stop that, set `data` to"):
        open_journal(file, MOST)
    await journal.close()
    journal, _ = open_journal(file, MOST)
    with pytest.raises(JournalError, match="another server uses it"):
        open_journal(file, MOST)  # also when nothing has been written yet
    await journal.close()


def told(file: Path) -> str:
    with pytest.raises(JournalError) as raised:
        open_journal(file, MOST)
    message = str(raised.value)
    assert message.startswith(f"the journal {str(file)!r} cannot be opened: ")
    return message


@pytest.fixture
def one_run(file: Path) -> Path:
    """The file with a run in it."""

    async def write() -> None:
        journal, _ = open_journal(file, MOST)
        journal.submit("r-1", 1.0, bytes(50_000))
        await journal.close()

    asyncio.run(write())
    return file


@pytest.mark.parametrize("end", [40_000, 8192, 100])
def test_a_damaged_file_is_named_with_the_remedy(one_run: Path, end: int) -> None:
    content = one_run.read_bytes()
    one_run.write_bytes(content[:end] + bytes(len(content) - end) if end > 100 else b"no database" * 9)
    assert "move it away: its runs are lost" in told(one_run)


def test_another_version_is_named_with_the_remedy(one_run: Path) -> None:
    with closing(sqlite3.connect(one_run)) as database:
        database.execute("PRAGMA user_version = 9")
    assert "it is of version 9, and this weft reads version 2; start the weft that wrote it" in told(one_run)


def test_a_database_of_somebody_else_is_left_alone(file: Path) -> None:
    file.parent.mkdir()
    with closing(sqlite3.connect(file)) as database:
        database.execute("CREATE TABLE theirs (x)")
    assert "it is of version 0" in told(file)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("no folder")
    assert "set `data` to a folder that can be written" in told(tmp_path / "data" / "runs.sqlite")


async def test_a_full_disk_is_told_to_those_who_ask_and_loses_nothing_else(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal, _ = open_journal(file, MOST)
    journal.submit("r-1", 1.0, b"")
    journal.submit("r-2", 2.0, b"")
    await journal.written("r-1")
    with files_of_at_most(1000):
        journal.put("r-1", b"lost", b"")
        journal.put("r-1", b"lost, too", b"")
        journal.end("r-2", b"done")
        for promise in (journal.written("r-1"), journal.begin("r-1", "x")):
            with pytest.raises(JournalError, match=r"make room on its disk, .* or raise journal_mb"):
                await promise
        await journal.written("r-1")  # it has been told
    assert [record.message.partition(":")[0] for record in caplog.records] == ["run r-1", "run r-2"]
    journal.put("r-1", b"kept", b"1")
    await journal.written("r-1")
    await journal.close()
    journal, left = open_journal(file, MOST)
    assert left == Left([LastingRun("r-1", 1.0, b"", {b"kept": b"1"}, frozenset())], {})
    await journal.close()


async def test_a_disk_that_hangs_keeps_nobody_waiting_and_no_more_than_so_much(
    file: Path, disk: threading.Event, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    journal, _ = open_journal(file, MOST)
    for run in ("r-0", "r-1"):
        journal.submit(run, 1.0, b"")
    await journal.written("r-1")
    monkeypatch.setattr("weft.runtime.orchestrator.journal._WAITING_BYTES", 10_000)
    for number in range(3):
        journal.put("r-1", b"at once %d" % number, bytes(20_000))
    await journal.written("r-1")
    monkeypatch.setattr("weft.runtime.orchestrator.journal._STALLED_S", 0.0)
    disk.clear()
    journal.put("r-1", b"large", bytes(20_000))  # alone, it may wait
    journal.put("r-1", b"lost", bytes(20_000))
    journal.end("r-0", bytes(20_000))
    with pytest.raises(JournalError, match=r"too much waits for its disk.*goes on by itself"):
        journal.submit("r-2", 1.0, b"")
    with monkeypatch.context() as patched:
        patched.setattr("weft.runtime.orchestrator.journal._DISK_S", 0.0)
        with pytest.raises(JournalError, match="has not taken it for 0 s"):
            await journal.written("r-0")
    disk.set()
    with pytest.raises(JournalError, match="too much waits for its disk"):
        await journal.written("r-1")
    assert [record.message.partition(":")[0] for record in caplog.records] == ["run r-1", "run r-0"]
    journal.submit("r-2", 1.0, b"")
    await journal.written("r-2")
    await journal.close()
    journal, left = open_journal(file, MOST)
    at_once = [b"at once 0", b"at once 1", b"at once 2"]
    assert [(run.run, list(run.results)) for run in left.runs] == [("r-1", [*at_once, b"large"]), ("r-2", [])]
    assert not left.outcomes
    await journal.close()


@pytest.mark.parametrize("part", [".", FILE, f"{FILE}-wal"])
async def test_files_that_have_gone_are_told_until_they_are_back(file: Path, part: str) -> None:
    journal, _ = open_journal(file, MOST)
    journal.submit("r-1", 1.0, b"")
    await journal.written("r-1")
    there, elsewhere = file.parent / part, file.parent.with_name("elsewhere")
    there.rename(elsewhere)
    journal.put("r-1", b"lost", b"")
    with pytest.raises(JournalError, match=r"moved or removed.*; put it back, or start the server again"):
        await journal.written("r-1")
    if part == ".":
        other, _ = open_journal(file, MOST)  # another server's, which the first one leaves alone
        other.submit("r-2", 1.0, b"")
        await journal.close()
        await other.close()
        return
    elsewhere.rename(there)
    journal.put("r-1", b"kept", b"")
    await journal.written("r-1")
    await journal.close()
    journal, left = open_journal(file, MOST)
    assert left.runs[0].results.keys() == {b"kept"}
    await journal.close()


async def test_on_a_full_disk_a_server_starts_and_has_all_that_was_kept(one_run: Path) -> None:
    with files_of_at_most(1000):
        journal, left = open_journal(one_run, MOST)
        assert [run.run for run in left.runs] == ["r-1"]
        journal.submit("r-2", 2.0, b"")
        with pytest.raises(JournalError, match="make room on its disk"):
            await journal.written("r-2")
    journal.submit("r-2", 2.0, b"")
    await journal.written("r-2")
    await journal.close()


async def test_nothing_begins_in_a_run_that_is_not_kept(file: Path) -> None:
    journal, _ = open_journal(file, MOST)
    with pytest.raises(JournalError):
        await journal.begin("r-1", "x")
    await journal.close()


async def test_what_does_not_fit_is_refused_alone_and_room_comes_back(file: Path) -> None:
    journal, _ = open_journal(file, MOST)
    for run in ("r-1", "r-2"):
        journal.submit(run, 1.0, b"")
    journal.put("r-1", b"small", b"1")
    journal.put("r-1", b"large", bytes(MOST))
    journal.put("r-2", b"half", bytes(MOST // 2))
    await journal.written("r-2")
    with pytest.raises(JournalError, match="database or disk is full"):
        await journal.written("r-1")
    journal.end("r-2", b"")
    journal.put("r-1", b"half", bytes(MOST // 2))
    await journal.written("r-1")
    await journal.close()
    assert file.stat().st_size <= MOST
    journal, left = open_journal(file, MOST)
    assert left.runs[0].results.keys() == {b"small", b"half"}
    await journal.close()


async def test_outcomes_fill_half_of_the_file_the_last_ones_first(file: Path) -> None:
    journal, _ = open_journal(file, MOST)
    third = bytes(MOST // 6)
    for run in ("r-1", "r-2", "r-3"):
        journal.end(run, third)
    journal.end("r-4", bytes(MOST // 2 + 1))
    await journal.close()
    journal, left = open_journal(file, MOST)
    assert left.outcomes == dict.fromkeys(("r-1", "r-2", "r-3"), third)
    journal.end("r-5", b"xyz")
    journal.end("r-6", third)
    await journal.close()
    journal, left = open_journal(file, MOST)
    assert list(left.outcomes) == ["r-3", "r-5", "r-6"]
    await journal.close()


async def test_a_file_of_the_first_version_is_taken_over(one_run: Path) -> None:
    with closing(sqlite3.connect(one_run)) as database:
        database.execute("DROP TABLE outcomes")
        database.execute("PRAGMA user_version = 1")
    journal, left = open_journal(one_run, MOST)
    assert [run.run for run in left.runs] == ["r-1"]
    journal.end("r-1", b"done")
    await journal.close()
    journal, left = open_journal(one_run, MOST)
    assert left == Left([], {"r-1": b"done"})
    await journal.close()
