"""The journal, in a file and in a database: what is written comes back, and what is not is told."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest
from hypothesis import given, settings

from weft.runtime.orchestrator.journal_store import JournalError, Left

from .journals import MOST, OPERATIONS, InDatabase, InFile, Place, State, perform

Fresh = Callable[[], Place]


@pytest.fixture(scope="module", params=["file", "database"])
def fresh(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Fresh:
    """Makes places for journals."""
    if request.param == "file":
        return lambda: InFile(tmp_path_factory.mktemp("journal"))
    postgres = request.getfixturevalue("postgres")
    database = postgres.database()
    return lambda: InDatabase(postgres, database)


@pytest.fixture
def place(fresh: Fresh) -> Place:
    return fresh()


async def check(operations: list[tuple[object, ...]], place: Place) -> None:
    state = State({}, {})
    journal, left = place.open()
    assert left == Left([], {})
    for number, operation in enumerate(operations, 1):
        if operation == ("crash",):
            await journal.written("")
            await place.crash(journal)
        elif operation == ("close",):
            await journal.close()
        else:
            state = perform(journal, state, number, operation)
            continue
        journal, left = place.open()
        assert left == state.left
        assert list(left.outcomes) == list(state.outcomes)
    await journal.close()


@settings(max_examples=40, deadline=None)
@given(OPERATIONS)
def test_what_lives_comes_back_with_all_that_it_had(
    fresh: Fresh, operations: list[tuple[object, ...]]
) -> None:
    asyncio.run(check(operations, fresh()))


async def test_a_second_server_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def told() -> str:
        with monkeypatch.context() as patched:
            for kind in ("file", "postgres"):
                patched.setattr(f"weft.runtime.orchestrator.journal_{kind}._LOCK_WAIT_S", 0.01)
            with pytest.raises(JournalError) as raised:
                place.open()
        return str(raised.value)

    journal, _ = place.open()
    journal.submit("r", 1.0, b"")
    await journal.written("r")
    refusal = f"the journal {place.name!r} cannot be opened: another server uses it; stop that, set `"
    assert told().startswith(refusal)
    await journal.close()
    journal, _ = place.open()
    assert told().startswith(refusal)  # also when nothing has been written yet
    await journal.close()


async def test_a_disk_that_hangs_keeps_nobody_waiting_and_no_more_than_so_much(
    place: Place, disk: threading.Event, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    journal, _ = place.open()
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
    with pytest.raises(JournalError, match=r"too much waits for its (disk|database).*goes on by itself"):
        journal.submit("r-2", 1.0, b"")
    with monkeypatch.context() as patched:
        patched.setattr("weft.runtime.orchestrator.journal._DISK_S", 0.0)
        with pytest.raises(JournalError, match="has not taken it for 0 s"):
            await journal.written("r-0")
    disk.set()
    with pytest.raises(JournalError, match=r"too much waits for its (disk|database)"):
        await journal.written("r-1")
    assert [record.message.partition(":")[0] for record in caplog.records] == ["run r-1", "run r-0"]
    journal.submit("r-2", 1.0, b"")
    await journal.written("r-2")
    await journal.close()
    journal, left = place.open()
    at_once = [b"at once 0", b"at once 1", b"at once 2"]
    assert [(run.run, list(run.results)) for run in left.runs] == [("r-1", [*at_once, b"large"]), ("r-2", [])]
    assert not left.outcomes
    await journal.close()


async def test_nothing_begins_in_a_run_that_is_not_kept(place: Place) -> None:
    journal, _ = place.open()
    with pytest.raises(JournalError):
        await journal.begin("r-1", "x")
    await journal.close()


async def test_what_does_not_fit_is_refused_alone_and_room_comes_back(place: Place) -> None:
    journal, _ = place.open()
    for run in ("r-1", "r-2"):
        journal.submit(run, 1.0, b"")
    journal.put("r-1", b"small", b"1")
    journal.put("r-1", b"large", bytes(MOST))
    journal.put("r-2", b"half", bytes(MOST // 2))
    await journal.written("r-2")
    with pytest.raises(JournalError, match="raise journal_mb in the settings"):
        await journal.written("r-1")
    journal.end("r-2", b"")
    journal.put("r-1", b"half", bytes(MOST // 2))
    await journal.written("r-1")
    await journal.close()
    if isinstance(place, InFile):
        assert place.file.stat().st_size <= MOST
    journal, left = place.open()
    assert left.runs[0].results.keys() == {b"small", b"half"}
    await journal.close()


async def test_outcomes_fill_half_of_it_the_last_ones_first(place: Place) -> None:
    journal, _ = place.open()
    third = bytes(MOST // 6)
    for run in ("r-1", "r-2", "r-3"):
        journal.end(run, third)
    journal.end("r-4", bytes(MOST // 2 + 1))
    await journal.close()
    journal, left = place.open()
    assert left.outcomes == dict.fromkeys(("r-1", "r-2", "r-3"), third)
    journal.end("r-5", b"xyz")
    journal.end("r-6", third)
    await journal.close()
    journal, left = place.open()
    assert list(left.outcomes) == ["r-3", "r-5", "r-6"]
    await journal.close()
