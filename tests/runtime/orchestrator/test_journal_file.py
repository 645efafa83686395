"""The journal in a SQLite file: what damages it, and what keeps it from being written."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.runtime.orchestrator.journal import open_journal
from weft.runtime.orchestrator.journal_file import FILE
from weft.runtime.orchestrator.journal_store import JournalError, LastingRun, Left

from ...disk import files_of_at_most
from .journals import MOST, OPERATIONS, InFile, State, perform


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "data" / FILE


async def torn(operations: list[tuple[object, ...]], folder: Path, cut: float) -> None:
    place, states = InFile(folder), [State({}, {})]
    journal, _ = place.open()
    for number, operation in enumerate(operations):
        states.append(perform(journal, states[-1], number, operation))
        await journal.written("")
    await place.crash(journal)
    log = place.file.with_name(f"{FILE}-wal")
    with log.open("r+b") as written:
        written.truncate(int(cut * log.stat().st_size))
    journal, left = place.open()
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


async def test_the_file_is_its_users_alone(file: Path) -> None:
    journal, _ = open_journal(file, MOST)
    journal.submit("r", 1.0, b"")
    await journal.written("r")
    assert {part.stat().st_mode & 0o777 for part in file.parent.iterdir()} == {0o600}
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
