"""The journal in a PostgreSQL database: when it cannot be reached, and when another server has been there."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable

import pytest
from pydantic import SecretStr

from weft.runtime.orchestrator import journal_postgres
from weft.runtime.orchestrator.journal import open_journal
from weft.runtime.orchestrator.journal_store import VERSION, JournalError, LastingRun, Left

from ...postgres import Postgres
from .journals import MOST, SERVERS, InDatabase

Until = Callable[[Callable[[], object]], Awaitable[None]]


@pytest.fixture
def place(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> InDatabase:
    monkeypatch.setattr("weft.runtime.orchestrator.journal._AGAIN_S", 0.05)
    return InDatabase(postgres, postgres.database())


def told(url: str) -> str:
    with pytest.raises(JournalError) as raised:
        open_journal(SecretStr(url), MOST)
    return str(raised.value)


async def test_a_database_that_crashes_loses_nothing_and_the_journal_goes_on(
    place: InDatabase, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    journal, _ = place.open()
    journal.submit("r-1", 1.0, b"request")
    await journal.written("r-1")
    place.postgres.crash()
    try:
        journal.put("r-1", b"key", b"result")
        begun = journal.begin("r-1", "x")
        with monkeypatch.context() as patched:
            patched.setattr("weft.runtime.orchestrator.journal._DISK_S", 0.2)
            with pytest.raises(JournalError, match=r"its database has not taken it for 0.2 s: .*; see to"):
                await journal.written("r-1")
        assert not begun.done()
        monkeypatch.setattr("weft.runtime.orchestrator.journal._WAITING_BYTES", 0)
        monkeypatch.setattr("weft.runtime.orchestrator.journal._STALLED_S", 0.0)
        with pytest.raises(JournalError, match=r"too much waits for its database: .*goes on by itself"):
            journal.submit("r-2", 2.0, b"")
        monkeypatch.undo()
    finally:
        place.postgres.start()
    await begun
    await journal.written("r-1")
    said = [record.message for record in caplog.records]
    assert [f"the journal {place.name!r} cannot be reached" in said[0], len(said)] == [True, 2]
    assert said[1] == f"the journal {place.name!r} takes writes again"
    await place.crash(journal)
    journal, left = place.open()
    assert left.runs == [LastingRun("r-1", 1.0, b"request", {b"key": b"result"}, frozenset("x"))]
    await journal.close()


async def test_what_was_acknowledged_before_and_between_crashes_is_there(place: InDatabase) -> None:
    journal, _ = place.open()
    acknowledged: list[str] = []
    crashing = asyncio.Event()

    async def submitting(number: int) -> None:
        while not crashing.is_set():
            run = f"r-{number}-{len(acknowledged)}"
            journal.submit(run, 1.0, b"request")
            journal.put(run, b"key", bytes(100))
            await journal.begin(run, "x")
            acknowledged.append(run)

    tasks = [asyncio.ensure_future(submitting(number)) for number in range(3)]
    for _ in range(3):
        before = len(acknowledged)
        while len(acknowledged) < before + 10:
            await asyncio.sleep(0.001)
        await asyncio.to_thread(place.postgres.crash)
        await asyncio.to_thread(place.postgres.start)
    crashing.set()
    await asyncio.gather(*tasks)
    await place.crash(journal)
    journal, left = place.open()
    assert {run.run for run in left.runs} == set(acknowledged)
    assert all(run.results == {b"key": bytes(100)} and run.begun == {"x"} for run in left.runs)
    await journal.close()


async def test_changes_of_which_nobody_knows_whether_they_are_written_are_written_once(
    place: InDatabase,
) -> None:
    journal, _ = place.open()
    for _ in range(2):  # as if the connection had been lost before the database said that they were
        journal.submit("r-1", 1.0, b"request")
        journal.put("r-1", b"key", b"result")
        await journal.begin("r-1", "x")
    await journal.written("r-1")
    for _ in range(2):
        journal.end("r-2", b"done")
    await journal.close()
    journal, left = place.open()
    run = LastingRun("r-1", 1.0, b"request", {b"key": b"result"}, frozenset("x"))
    assert left == Left([run], {"r-2": b"done"})
    await journal.close()


async def test_an_idle_server_that_has_lost_its_lock_gets_it_back(
    place: InDatabase, monkeypatch: pytest.MonkeyPatch, until: Until
) -> None:
    monkeypatch.setattr(journal_postgres.DatabaseStore, "check_s", 0.05)
    journal, _ = place.open()
    place.cut_off()
    await until(lambda: place.execute(f"SELECT pid {SERVERS}"))
    monkeypatch.setattr(journal_postgres, "_LOCK_WAIT_S", 0.01)
    assert "another server uses it" in told(place.postgres.url(place.database))
    await journal.close()


async def test_a_server_that_another_has_followed_writes_no_more(
    place: InDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    first, _ = place.open()
    first.submit("r-1", 1.0, b"")
    await first.written("r-1")
    place.cut_off()
    second, left = place.open()
    assert [run.run for run in left.runs] == ["r-1"]
    first.end("r-1", b"by the first")
    waiting = asyncio.ensure_future(first.written(""))
    await second.begin("r-1", "x")
    await asyncio.sleep(0.2)
    assert not waiting.done()  # the other may end yet, or not be there any more
    await second.close()
    await waiting
    with pytest.raises(JournalError, match=r"another server has taken it over\); start this server again"):
        await first.begin("r-1", "y")
    await first.close()
    assert caplog.text.count("is not written any more: another server has taken it over") == 1
    third, left = place.open()
    assert left == Left([LastingRun("r-1", 1.0, b"", {}, frozenset("x"))], {})
    await third.close()


async def test_a_server_that_stops_does_not_wait_for_its_database(
    place: InDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    journal, _ = place.open()
    place.postgres.crash()
    try:
        journal.end("r-1", b"done")
        journal.forget("r-2")
        await journal.close()
    finally:
        place.postgres.start()
    assert "run r-1: the journal" in caplog.text
    assert "cannot be written (the server stops: " in caplog.text


async def test_a_full_database_is_told_to_those_who_ask_and_loses_nothing_else(place: InDatabase) -> None:
    journal, _ = place.open()
    journal.submit("r-1", 1.0, b"")
    await journal.written("r-1")
    place.execute("ALTER TABLE weft_journal.results ADD CHECK (length(results) < 9)")
    journal.put("r-1", b"small", b"1")
    journal.put("r-1", b"large", bytes(9))
    with pytest.raises(JournalError, match=r"\(new row .* violates .*\); make room on its disk"):
        await journal.written("r-1")
    await journal.close()
    journal, left = place.open()
    assert left.runs[0].results.keys() == {b"small"}
    await journal.close()


async def test_a_database_that_has_more_than_it_may_takes_nothing_but_ends(place: InDatabase) -> None:
    journal, _ = place.open()
    for run in ("r-1", "r-2"):
        journal.submit(run, 1.0, bytes(5000))
    await journal.close()
    journal, _ = open_journal(SecretStr(place.postgres.url(place.database)), 8000)
    assert journal.size > 2 * 5000
    journal.put("r-1", b"key", b"result")
    with pytest.raises(JournalError, match=r"more than 0.00\d+ MiB\); wait .*, or raise journal_mb"):
        await journal.written("r-1")
    journal.end("r-2", b"done")
    journal.put("r-1", b"key", b"result")
    await journal.written("r-1")
    journal.end("r-1", b"")
    journal.forget("r-1")
    journal.forget("r-2")
    await journal.close()
    assert journal.size == 0
    assert place.execute("SELECT * FROM weft_journal.runs, weft_journal.outcomes") == []


def test_what_cannot_be_opened_is_named_without_the_password(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = postgres.database()
    wrong = told(postgres.url(database, "guarded", "secret"))
    assert wrong.startswith("the journal 'postgresql://guarded@%2F")
    assert 'password authentication failed for user "guarded"' in wrong
    assert "correct `journal` (WEFT_JOURNAL)" in wrong
    assert 'database "nowhere" does not exist' in told(postgres.url("nowhere"))
    assert "cannot be opened: connection failed" in told("postgresql://weft:secret@127.0.0.1:1/runs")
    for url in ("postgresql://weft:secret@host/runs?mode=1", "postgresql://weft:sec%ret@host/runs"):
        assert "cannot be read; write it as postgresql://USER@HOST/DATABASE" in told(url)
    assert "sec" not in wrong + told("postgresql://weft:sec%ret@host/runs")
    monkeypatch.setenv("PGPASSWORD", "hidden")
    journal, _ = open_journal(SecretStr(postgres.url(database, "guarded")), MOST)
    asyncio.run(journal.close())


def test_a_database_of_another_version_is_left_alone(place: InDatabase) -> None:
    place.execute("CREATE SCHEMA weft_journal")
    place.execute("CREATE TABLE weft_journal.journal AS SELECT 9 AS version, 'theirs' AS server")
    why = f"it is of version 9, and this weft reads version {VERSION}; start the weft that wrote it"
    assert why in told(place.postgres.url(place.database))
    assert place.execute("SELECT server FROM weft_journal.journal") == [("theirs",)]


async def test_a_user_may_have_no_more_than_the_schema(place: InDatabase) -> None:
    place.execute("CREATE ROLE little LOGIN")
    url = place.postgres.url(place.database, "little")
    assert "permission denied for database" in told(url)
    place.execute("CREATE SCHEMA weft_journal AUTHORIZATION little")
    journal, left = open_journal(SecretStr(url), MOST)
    assert left == Left([], {})
    await journal.close()
    place.execute("DROP SCHEMA weft_journal CASCADE")
    place.execute("DROP ROLE little")


def test_without_the_driver_the_command_is_named(place: InDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, journal_postgres.__name__)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    assert told(place.postgres.url(place.database)).endswith("pip install 'weft[postgres]'")


async def test_the_logs_have_no_password(postgres: Postgres, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    url = postgres.url(postgres.database(), "guarded", "hidden")
    journal, _ = open_journal(SecretStr(url), MOST)
    postgres.crash()
    journal.end("r", b"")
    await asyncio.sleep(0.1)
    await journal.close()
    postgres.start()
    assert "cannot be reached" in caplog.text
    assert "hidden" not in caplog.text
