"""Runs that outlive the server: one server after the other over one data folder."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import grpc
import pytest

from weft.graph.codec import encode_graph, to_json
from weft.graph.ir import Graph, Node, Value
from weft.graph.ops.common import Input, Interrupt, Tool
from weft.graph.ops.primitive import Decode
from weft.graph.ops.user import Generate
from weft.graph.prompt import Slot
from weft.graph.types import TEXT
from weft.proto import orchestrator_pb2 as pb
from weft.runtime.orchestrator.journal_file import FILE
from weft.runtime.orchestrator.journal_store import LastingRun
from weft.runtime.orchestrator.record import RunRecord
from weft.runtime.orchestrator.timer import now

from ...disk import files_of_at_most
from .conftest import Servers, llm
from .restarts import ASKING, fault_at_the_stop, ran, raw, submit, waits, worker
from .test_interrupt import info_of, outcome, resume


async def test_a_run_goes_on_with_what_it_had(servers: Servers) -> None:
    stage = await servers.start()
    first = await worker(stage)
    run = await submit(stage, ASKING)
    asked = (await waits(stage, run)).waiting
    assert (ran(first, Decode), ran(first, Tool)) == (1, 1)
    await servers.crash(stage, run)
    stage = await servers.start()
    assert (await info_of(stage, run)).state == "running"
    second = await worker(stage)
    second.text = lambda read: f"({read})"
    again = (await waits(stage, run)).waiting
    assert [(a.label, a.value) for a in again] == [(a.label, a.value) for a in asked]
    assert not second.nodes()
    await resume(stage, run, "yes")
    result = await outcome(stage, run)
    assert result.outputs[0].text.text == "(Plan x<Plan x> go on: yes)"
    assert (ran(second, Decode), ran(second, Tool)) == (1, 0)
    await servers.crash(stage, run)
    stage = await servers.start()
    (info,) = (await stage.stub.ListRuns(pb.ListRunsRequest())).runs
    assert (info.run, info.state, info.nodes_done) == (run, "done", result.info.nodes_done)
    assert await outcome(stage, run) == result  # at once, and for good
    await stage.server.stop()
    stage = await servers.start()
    assert await outcome(stage, run) == result
    trace = await stage.stub.Trace(pb.TraceRequest(run=run))
    assert "Plan" not in trace.json
    assert all(stat.label in trace.json for stat in result.info.stats)


async def test_a_server_that_stops_leaves_its_runs_to_the_next_one(servers: Servers) -> None:
    stage = await servers.start()
    await worker(stage)
    run = await submit(stage, ASKING)
    await waits(stage, run)
    fault = await fault_at_the_stop(stage, run)
    assert fault.message == (
        "the run was cancelled: the server is shutting down; the run goes on when it is started again"
    )
    stage = await servers.start()
    await stage.server.stop()  # before it could go on
    stage = await servers.start()
    await worker(stage)
    await waits(stage, run)
    await stage.stub.Cancel(pb.CancelRunRequest(run=run))
    cancelled = await outcome(stage, run)
    assert cancelled.info.state == "cancelled"
    await stage.server.stop()
    stage = await servers.start()
    assert await outcome(stage, run) == cancelled


async def test_only_what_is_submitted_outlives_the_server(servers: Servers) -> None:
    stage = await servers.start()
    await worker(stage)
    graph = encode_graph(Graph(ASKING, (Value(4),), "asks"))
    call = asyncio.ensure_future(stage.stub.Invoke(pb.SubmitRequest(graph=graph, inputs={"q": '"x"'})))
    while not (runs := (await stage.stub.ListRuns(pb.ListRunsRequest(state="waiting"))).runs):
        await asyncio.sleep(0.005)
    await servers.crash(stage, runs[0].run)
    assert (await call).info.state == "cancelled"
    stage = await servers.start()
    assert not (await stage.stub.ListRuns(pb.ListRunsRequest())).runs


async def test_a_tool_that_was_running_is_not_run_again(servers: Servers) -> None:
    stage = await servers.start()
    first = await worker(stage)
    first.gated = {Tool}
    run = await submit(stage, ASKING)
    while not ran(first, Tool):
        await asyncio.sleep(0.005)
    await servers.crash(stage, run)
    stage = await servers.start()
    second = await worker(stage)
    fault = (await outcome(stage, run)).fault
    assert (fault.code, fault.node.split(" ", 1)[1]) == ("worker_lost", "tool 'mail'")
    assert "the server ended after it had begun this tool" in fault.message
    assert not second.nodes()


async def test_an_idempotent_tool_that_was_running_runs_again(servers: Servers) -> None:
    nodes = (*ASKING[:2], Node(2, Tool("lookup", TEXT, "server", idempotent=True), {"text": Value(1)}))
    stage = await servers.start()
    first = await stage.worker("w")
    first.gated = {Tool}
    run = await submit(stage, nodes)
    while (await info_of(stage, run)).nodes_done < 3:  # all but the tool
        await asyncio.sleep(0.005)
    await servers.crash(stage, run)
    stage = await servers.start()
    second = await stage.worker("w")
    assert (await outcome(stage, run)).outputs[0].text.text == "lookup(<Plan x>)"
    assert (ran(second, Decode), ran(second, Tool)) == (0, 1)


async def test_a_run_keeps_whose_it_is_how_urgent_it_is_and_when_it_must_end(servers: Servers) -> None:
    stage = await servers.start()
    await worker(stage)
    urgent = await submit(stage, ASKING, namespace="ours", priority=7, deadline_s=3600)
    late = await submit(stage, ASKING, deadline_s=3600)
    for run in (urgent, late):
        await waits(stage, run)
        await stage.server.orchestrator.keeping.written(run)
    started = (await info_of(stage, urgent)).started_unix_s
    await servers.crash(stage, urgent)
    with closing(sqlite3.connect(servers.folder / FILE, isolation_level=None)) as database:
        database.execute("UPDATE runs SET started = started - 3600 WHERE run = ?", (late,))
    stage = await servers.start()
    fault = (await outcome(stage, late)).fault  # without any worker
    assert (fault.code, fault.message) == ("timeout", "the run took longer than its deadline of 3600 s")
    second = await worker(stage)
    await waits(stage, urgent)
    assert (await info_of(stage, urgent)).started_unix_s == started
    await resume(stage, urgent, "yes")
    await outcome(stage, urgent)
    assert {(f.namespace, f.priority) for f in second.fragments()} == {("ours", 7)}


async def test_a_run_that_cannot_go_on_fails_and_says_why_and_others_go_on(servers: Servers) -> None:
    other = (Node(0, Input("q")), Node(1, Interrupt(TEXT), {"value": Value(0)}))
    stage = await servers.start()
    await worker(stage)
    await stage.worker("w2", llm("m2"))
    named = Node(1, Generate(raw("Plan ", Slot("q")), model="m2"), {"q": Value(0)})
    runs = [await submit(stage, nodes) for nodes in (other, (ASKING[0], named, *ASKING[2:]), other, other)]
    for run in runs:
        await waits(stage, run)
        await stage.server.orchestrator.keeping.written(run)
    await servers.crash(stage, runs[0])
    with closing(sqlite3.connect(servers.folder / FILE, isolation_level=None)) as database:
        database.execute("UPDATE runs SET request = ? WHERE run = ?", (b"\xff", runs[2]))
        no_graph = pb.SubmitRequest(graph_json="{}").SerializeToString()
        database.execute("UPDATE runs SET request = ? WHERE run = ?", (no_graph, runs[3]))
    stage = await servers.start()
    await worker(stage)
    await waits(stage, runs[0])
    faults = [(await outcome(stage, run)).fault for run in runs[1:]]
    begins = "the run cannot go on since the server was started again: "
    assert [fault.message.startswith(begins) for fault in faults] == [True] * 3
    assert "unknown model 'm2'" in faults[0].message
    assert [fault.code for fault in faults] == ["invalid"] * 3
    assert "what the journal has of it cannot be read: " in faults[1].message
    await servers.crash(stage, runs[0])
    stage = await servers.start()
    listed = {info.run: info.state for info in (await stage.stub.ListRuns(pb.ListRunsRequest())).runs}
    assert listed == {runs[0]: "running", **dict.fromkeys(runs[1:], "failed")}
    assert [(await outcome(stage, run)).fault for run in runs[1:]] == faults


async def test_a_mistake_of_weft_s_own_fails_a_run_and_nothing_else(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = await servers.start()
    await worker(stage)
    runs = [
        await submit(stage, ASKING),
        await submit(stage, (*ASKING[:1], Node(1, Interrupt(), {"value": Value(0)}))),
    ]
    for run in runs:
        await waits(stage, run)
        await stage.server.orchestrator.keeping.written(run)
    await servers.crash(stage, runs[0])
    stage = await servers.start()
    plain = stage.server.orchestrator.go_on

    def go_on(record: RunRecord, request: pb.SubmitRequest, left: LastingRun) -> None:
        if record.id == runs[0]:
            raise RuntimeError("it is broken")
        plain(record, request, left)

    monkeypatch.setattr(stage.server.orchestrator, "go_on", go_on)
    await worker(stage)
    await waits(stage, runs[1])
    fault = (await outcome(stage, runs[0])).fault
    assert (fault.code, fault.message) == ("internal", "RuntimeError: it is broken")


async def test_a_program_goes_on_as_it_was_when_it_was_submitted(servers: Servers, tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    file.write_text(to_json(Graph(ASKING, (Value(4),), "asks")))
    stage = await servers.start(programs={"p": file})
    await worker(stage)
    run = (await stage.stub.Submit(pb.SubmitRequest(program="p", inputs={"q": '"x"'}))).run
    await waits(stage, run)
    await servers.crash(stage, run)
    stage = await servers.start()
    await worker(stage)
    assert (await waits(stage, run)).program == "asks"
    await resume(stage, run, "yes")
    assert (await outcome(stage, run)).outputs[0].text.text == "<Plan x<Plan x> go on: yes>"


async def test_what_other_runs_have_computed_is_kept_too(servers: Servers) -> None:
    cached = Node(1, Generate(raw("Plan ", Slot("q")), cache=True), {"q": Value(0)})
    nodes = (ASKING[0], cached, Node(2, Interrupt(TEXT), {"value": Value(1)}))
    stage = await servers.start()
    first = await worker(stage)
    for _ in range(2):
        run = await submit(stage, nodes)
        await waits(stage, run)
    assert ran(first, Decode) == 1
    await servers.crash(stage, run)
    stage = await servers.start()
    second = await worker(stage)
    await waits(stage, run)
    assert not second.nodes()


async def test_a_run_that_cannot_go_on_yet_can_be_cancelled_for_good(servers: Servers) -> None:
    stage = await servers.start()
    await worker(stage)
    run = await submit(stage, ASKING)
    await waits(stage, run)
    await servers.crash(stage, run)
    stage = await servers.start()
    assert (await stage.stub.Cancel(pb.CancelRunRequest(run=run))).state == "cancelled"
    again = await worker(stage)
    assert not stage.server.orchestrator.shell.runs
    await stage.server.stop()
    stage = await servers.start()
    await worker(stage)
    assert (await info_of(stage, run)).state == "cancelled"
    assert not again.nodes()


async def test_without_a_journal_runs_end_with_the_server(servers: Servers) -> None:
    stage = await servers.start(journal_mb=0)
    await worker(stage)
    run = await submit(stage, ASKING)
    await waits(stage, run)
    assert (
        await fault_at_the_stop(stage, run)
    ).message == "the run was cancelled: the server is shutting down"
    assert not servers.folder.exists()


async def test_what_cannot_be_written_down_is_not_begun(servers: Servers) -> None:
    stage = await servers.start()
    first = await worker(stage)
    first.gated = {Decode}
    run = await submit(stage, ASKING)
    with files_of_at_most(1000):
        first.gate.set()
        fault = (await outcome(stage, run)).fault
        assert (fault.code, fault.node.split(" ", 1)[1]) == ("unavailable", "tool 'mail'")
        assert f"not begun: the journal '{servers.folder / FILE}' cannot be written" in fault.message
        with pytest.raises(grpc.aio.AioRpcError, match="make room on its disk") as refused:
            await submit(stage, ASKING)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert not ran(first, Tool)
    run = await submit(stage, ASKING)  # there is room again
    await waits(stage, run)
    with files_of_at_most(1000), pytest.raises(grpc.aio.AioRpcError, match="would ask again") as refused:
        await resume(stage, run, "yes")
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert (await outcome(stage, run)).info.state == "done"


async def test_on_a_disk_that_hangs_nothing_is_accepted_and_the_rest_goes_on(
    servers: Servers, disk: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = await servers.start()
    await worker(stage)
    waiting = await submit(stage, ASKING)
    await waits(stage, waiting)
    disk.clear()
    monkeypatch.setattr("weft.runtime.orchestrator.journal._DISK_S", 0.1)
    with pytest.raises(grpc.aio.AioRpcError, match=r"the run was not begun: .* has not taken it") as refused:
        await submit(stage, ASKING)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    with pytest.raises(grpc.aio.AioRpcError, match="would ask again"):
        await resume(stage, waiting, "yes")
    assert (await outcome(stage, waiting)).info.state == "done"
    monkeypatch.setattr("weft.runtime.orchestrator.journal._WAITING_BYTES", 0)
    monkeypatch.setattr("weft.runtime.orchestrator.journal._STALLED_S", 0.0)
    with pytest.raises(grpc.aio.AioRpcError, match=r"the run was not begun: .*too much waits for its disk"):
        await submit(stage, ASKING)
    assert stage.server.orchestrator.counts.refused == {"unavailable": 1}
    disk.set()
    monkeypatch.undo()
    accepted = await submit(stage, ASKING)
    await servers.crash(stage, accepted)
    stage = await servers.start()
    runs = (await stage.stub.ListRuns(pb.ListRunsRequest())).runs
    assert sorted(info.state for info in runs) == ["cancelled", "done", "running"]
    assert (await info_of(stage, accepted)).state == "running"


async def test_a_run_that_was_not_accepted_ends_with_its_client(
    servers: Servers, disk: threading.Event
) -> None:
    stage = await servers.start()
    await worker(stage)
    disk.clear()
    submitting = asyncio.ensure_future(submit(stage, ASKING))
    while not (runs := (await stage.stub.ListRuns(pb.ListRunsRequest())).runs):
        await asyncio.sleep(0.005)
    submitting.cancel()
    fault = (await outcome(stage, runs[0].run)).fault
    assert fault.message == "the run was cancelled: its client went away before the run was accepted"
    disk.set()


async def test_a_clock_that_was_set_back_makes_no_run_younger_than_it_is(servers: Servers) -> None:
    stage = await servers.start()
    await worker(stage)
    over, late = await submit(stage, ASKING), await submit(stage, ASKING, deadline_s=60)
    for run in (over, late):
        await waits(stage, run)
    await stage.stub.Cancel(pb.CancelRunRequest(run=over))
    await servers.crash(stage, over)
    with closing(sqlite3.connect(servers.folder / FILE, isolation_level=None)) as database:
        database.execute("UPDATE runs SET started = started + 3600")
        ((message,),) = database.execute("SELECT outcome FROM outcomes").fetchall()
        result = pb.RunResult.FromString(message)
        result.info.started_unix_s += 3600
        database.execute("UPDATE outcomes SET outcome = ?", (result.SerializeToString(),))
    stage = await servers.start()
    records = stage.server.orchestrator.records
    assert all(record.started_s <= now() for record in records.values())
    await worker(stage)
    await waits(stage, late)
    deadline = stage.server.orchestrator.shell.runs[late].deadline
    assert deadline is not None
    assert deadline.when() <= asyncio.get_running_loop().time() + 60
