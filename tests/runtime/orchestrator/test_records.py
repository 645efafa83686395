"""Which runs a server speaks of."""

from __future__ import annotations

import pytest

from weft.proto import orchestrator_pb2 as pb
from weft.proto import value_pb2
from weft.runtime.orchestrator.door import DoorError
from weft.runtime.orchestrator.record import RunRecord
from weft.runtime.orchestrator.records import Records
from weft.runtime.scheduler.faults import Fault

DAY_S = 24 * 3600.0


def ended(records: Records, run: str, at_s: float, *, lasting: bool = False, text: str = "") -> RunRecord:
    record = RunRecord(run, "p", at_s - 1.0, 0.0, lasting=lasting)
    records.add(record)
    record.end("done", None, [value_pb2.Datum(json=text)], at_s)
    records.ended(record)
    return record


def forgotten(records: Records, now: float) -> list[str]:
    return [record.id for record in records.forget_old(now)]


async def test_detached_runs_are_kept_for_a_week_and_others_for_a_day() -> None:
    records = Records()
    records.add(RunRecord("lives", "p", 0.0, 0.0))
    ended(records, "stream", 10.0)
    ended(records, "detached", 10.0, lasting=True)
    assert forgotten(records, 10.0 + DAY_S) == []
    assert forgotten(records, 11.0 + DAY_S) == ["stream"]
    assert forgotten(records, 10.0 + 7 * DAY_S) == []
    assert forgotten(records, 11.0 + 7 * DAY_S) == ["detached"]
    assert list(records) == ["lives"]
    with pytest.raises(DoorError, match="unknown run 'stream'; the server keeps the last 1000"):
        records.find("stream")


async def test_many_runs_of_streams_push_out_no_detached_one() -> None:
    records = Records()
    ended(records, "detached", 1.0, lasting=True)
    for number in range(1001):
        ended(records, f"s-{number}", 2.0 + number)
    assert forgotten(records, 2000.0) == ["s-0"]
    for number in range(1001):
        ended(records, f"d-{number}", 2.0 + number, lasting=True)
    assert forgotten(records, 2000.0) == ["detached", "d-0"]


@pytest.mark.parametrize("lasting", [False, True])
async def test_of_large_runs_fewer_are_kept_and_the_last_however_large(
    lasting: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weft.runtime.orchestrator.records._KEPT_BYTES", 10_000)
    records = Records()
    ended(records, "small", 1.0, lasting=lasting)
    ended(records, "other", 1.0, lasting=not lasting)
    ended(records, "large", 2.0, lasting=lasting, text="x" * 9000)
    assert forgotten(records, 3.0) == []
    ended(records, "larger", 4.0, lasting=lasting, text="x" * 90_000)
    assert forgotten(records, 5.0) == ["small", "large"]
    ended(records, "last", 6.0, lasting=lasting, text="x" * 9000)
    assert forgotten(records, 7.0) == ["larger"]
    ended(records, "small again", 8.0, lasting=lasting)
    assert forgotten(records, 9.0) == []


async def test_the_size_of_a_run_is_that_of_what_it_keeps() -> None:
    record = RunRecord("r", "p", 0.0, 0.0)
    record.read_bytes = 100_000
    name = value_pb2.Datum(json="y" * 10_000)
    record.emit(pb.RunEvent(known=pb.Known(datum=name)), 1.0)
    for _ in range(1000):
        record.emit(pb.RunEvent(delta=pb.TextDelta(text="z")), 1.0)
    record.end("done", None, [value_pb2.Datum(json="x" * 1_000_000)], 2.0)
    assert 1_111_000 < record.size < 1_112_000


async def test_what_an_earlier_server_told_of_a_run_is_told_again() -> None:
    record = RunRecord("r-1", "p", 5.0, 1e9, nodes=3, nodes_done=2, lasting=True)
    record.end("failed", Fault("tool_failed", "no", node="%4", retryable=True), (), 7.5)
    told = record.result()
    records = Records()
    records.take_up(told, 100.0)
    assert records.find("r-1").result() == told
    events = [event async for batch in records.find("r-1").log.follow() for event in batch.events]
    assert [event.WhichOneof("event") for event in events] == ["started", "finished"]
    assert events[1].at_s == pytest.approx(2.5)
