"""Runs that outlive the server: one server after the other over one data folder."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import grpc
import pytest

from weft.graph.codec import encode_graph, encode_type, to_json
from weft.graph.ir import Graph, Node, Value
from weft.graph.ops.common import Const, Format, Input, Interrupt, Search, Tool
from weft.graph.ops.control import Loop, Map
from weft.graph.ops.primitive import Decode
from weft.graph.ops.user import Generate
from weft.graph.prompt import Message, Slot
from weft.graph.sampling import JsonSchema, Sampling
from weft.graph.types import BOOLEAN, INTEGER, TEXT, Data
from weft.proto import orchestrator_pb2 as pb
from weft.proto import orchestrator_pb2_grpc, value_pb2, worker_pb2
from weft.runtime.config import ModelSettings, Settings
from weft.runtime.orchestrator.journal import FILE, LastingRun
from weft.runtime.orchestrator.record import RunRecord
from weft.runtime.orchestrator.server import Server
from weft.runtime.scheduler.policies import Policies
from weft.runtime.scheduler.scheduler import Scheduler

from ...disk import files_of_at_most
from .conftest import EchoWorker, Stage, llm, retrieval
from .test_interrupt import info_of, outcome, resume


def raw(*parts: str | Slot) -> tuple[Message, ...]:
    return (Message("raw", parts),)


ASKING = (
    Node(0, Input("q")),
    Node(1, Generate(raw("Plan ", Slot("q")), sampling=Sampling(temperature=1.0, seed=3)), {"q": Value(0)}),
    Node(2, Tool("send", TEXT, where="server"), {"text": Value(1)}, "mail"),
    Node(3, Interrupt(TEXT), {"value": Value(2)}, "approve"),
    Node(
        4,
        Generate(raw("Plan ", Slot("q"), Slot("a"), " go on: ", Slot("b"))),
        {"q": Value(0), "a": Value(1), "b": Value(3)},
    ),
)


class Servers:
    """Servers that follow each other over one data folder."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.folder = folder
        self._stack = stack
        self._lives = 0

    async def start(self, **settings: Any) -> Stage:
        """The next server, with no worker."""
        given: dict[str, Any] = {"models": [ModelSettings(name="m", path="none")], "data": self.folder}
        server = Server(
            Settings(listen="127.0.0.1:0", **{**given, **settings}), Scheduler(Policies(grace_s=0.3))
        )
        address = await server.start()
        self._stack.push_async_callback(server.stop)
        channel = await self._stack.enter_async_context(grpc.aio.insecure_channel(address))
        return Stage(server, address, orchestrator_pb2_grpc.OrchestratorStub(channel), self._stack)

    async def crash(self, stage: Stage, run: str) -> None:
        """Let the next server find what this one has written by now."""
        await stage.server.orchestrator.keeping.written(run)
        self._lives += 1
        copy = self.folder.with_name(f"{self.folder.name}-{self._lives}")
        copy.mkdir()
        for file in self.folder.glob(f"{FILE}*"):
            shutil.copy(file, copy / file.name)
        self.folder = copy
        await stage.server.stop()


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[Servers]:
    async with AsyncExitStack() as stack:
        yield Servers(tmp_path / "data", stack)


async def worker(stage: Stage, kind: type[EchoWorker] = EchoWorker) -> Any:
    """A worker that offers everything, and a tool that must not run twice."""
    tool = worker_pb2.ToolInfo(name="send", result=encode_type(TEXT), parameters="{}")
    engines = [llm(), *retrieval()[:2], worker_pb2.EngineInfo(kind="tool", tools=[tool])]
    started = kind("w", engines)
    await started.start(stage.address)
    stage.stack.push_async_callback(started.stop)
    return started


async def submit(stage: Stage, nodes: tuple[Node, ...], **options: Any) -> str:
    graph = encode_graph(Graph(nodes, (Value(nodes[-1].id),), "asks"))
    info = await stage.stub.Submit(pb.SubmitRequest(graph=graph, inputs={"q": '"x"'}, **options))
    return str(info.run)


async def waits(stage: Stage, run: str) -> pb.RunInfo:
    while (info := await info_of(stage, run)).state != "waiting":
        assert info.state == "running", info
        await asyncio.sleep(0.005)
    return info


async def fault_at_the_stop(stage: Stage, run: str) -> value_pb2.Fault:
    """What those who follow a run hear when the server stops."""
    following = stage.stub.Watch(pb.WatchRequest(run=run))
    await following.read()
    await stage.server.stop()
    fault: value_pb2.Fault = (await following.read()).events[-1].finished.fault
    return fault


def ran(worker: EchoWorker, *kinds: type) -> int:
    return sum(isinstance(node.op, kinds) for node in worker.nodes())


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
    assert not (await stage.stub.ListRuns(pb.ListRunsRequest())).runs


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
    assert (await outcome(stage, run)).info.state == "cancelled"
    await stage.server.stop()
    stage = await servers.start()
    assert not (await stage.stub.ListRuns(pb.ListRunsRequest())).runs


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


ITEM = Graph(
    (
        Node(0, Input(Map.ITEM, TEXT)),
        Node(1, Tool("send", TEXT, where="server"), {"text": Value(0)}),
        Node(2, Interrupt(TEXT), {"value": Value(1)}),
        Node(3, Format((Slot("a"), "; ", Slot("b"))), {"a": Value(1), "b": Value(2)}),
    ),
    (Value(3),),
    "item",
)
TEXTS = Data('{"items":{"type":"string"},"type":"array"}')
MAPPED = (
    Node(0, Input("q")),
    Node(1, Input("items", TEXTS, '["a", "a", "b"]')),
    Node(2, Map(ITEM), {"items": Value(1)}),
)


async def test_bodies_of_a_map_go_on_each_with_its_own(servers: Servers) -> None:
    stage = await servers.start()
    first = await worker(stage)
    run = await submit(stage, MAPPED)
    while len(asked := (await waits(stage, run)).waiting) < 3:
        await asyncio.sleep(0.005)
    assert ran(first, Tool) == 3
    await resume(stage, run, "second", node=asked[1].node)
    await servers.crash(stage, run)
    stage = await servers.start()
    second = await worker(stage)
    while len(asked := (await waits(stage, run)).waiting) < 2:
        await asyncio.sleep(0.005)
    await resume(stage, run, "first", node=asked[0].node)
    await resume(stage, run, "third")
    result = await outcome(stage, run)
    assert json.loads(result.outputs[0].json) == ["send(a); first", "send(a); second", "send(b); third"]
    assert not second.nodes()


LISTED = (
    Node(0, Input("q")),
    Node(
        1,
        Generate(raw("List ", Slot("q")), type=TEXTS, constraint=JsonSchema(TEXTS.schema)),
        {"q": Value(0)},
    ),
    Node(
        2,
        Map(
            Graph(
                (
                    Node(0, Input(Map.ITEM, TEXT)),
                    Node(1, Const("1", INTEGER)),
                    Node(2, Search("handbook"), {"query": Value(0), "k": Value(1)}),
                    Node(3, Tool("send", TEXT, "server"), {"about": Value(2), "text": Value(0)}),
                    Node(4, Interrupt(TEXT), {"value": Value(3)}),
                    Node(5, Format((Slot("a"), "; ", Slot("b"))), {"a": Value(3), "b": Value(4)}),
                ),
                (Value(5),),
                "item",
            )
        ),
        {"items": Value(1)},
    ),
)
"""What is done with an item is worth beginning before the list is complete."""


async def write(worker: EchoWorker, run: str, text: str) -> None:
    """Let the one decode that a worker has write, and not end."""
    while not ran(worker, Decode):
        await asyncio.sleep(0.005)
    tasks = [task for fragment in worker.fragments() for task in fragment.tasks]
    (decode,) = [t for t, node in zip(tasks, worker.nodes(), strict=True) if isinstance(node.op, Decode)]
    await worker.write(run, decode, text)


async def test_items_that_a_model_was_still_writing_are_not_sent_twice(servers: Servers) -> None:
    """Life one stops when two items of a list have closed, and the tools have been called for both."""
    stage = await servers.start()
    first = await worker(stage)
    first.gated = {Decode}
    run = await submit(stage, LISTED)
    await write(first, run, '["a", "b", ')
    while len((await waits(stage, run)).waiting) < 2:
        await asyncio.sleep(0.005)
    assert ran(first, Tool) == 2
    await servers.crash(stage, run)
    stage = await servers.start()
    second = await worker(stage)
    second.text = lambda read: '["a", "b", "c"]'
    while len(asked := (await waits(stage, run)).waiting) < 3:
        await asyncio.sleep(0.005)
    for question in asked:
        await resume(stage, run, "yes", node=question.node)
    result = await outcome(stage, run)
    assert json.loads(result.outputs[0].json) == [f"send([1] from handbook, {item}); yes" for item in "abc"]
    assert (ran(second, Decode), ran(second, Tool)) == (1, 1)


async def test_items_that_come_otherwise_the_second_time_end_the_run(servers: Servers) -> None:
    stage = await servers.start()
    first = await worker(stage)
    first.gated = {Decode}
    run = await submit(stage, LISTED)
    await write(first, run, '["a", "b", ')
    await waits(stage, run)
    await servers.crash(stage, run)
    stage = await servers.start()
    second = await worker(stage)
    second.text = lambda read: '["z"]'
    assert "the server ended after it had begun this tool" in (await outcome(stage, run)).fault.message
    assert not ran(second, Tool)


TURN = Graph(
    (
        Node(0, Input(Loop.STATE, TEXT)),
        Node(1, Const('"again"')),
        Node(2, Tool("send", TEXT, where="server"), {"text": Value(1)}),
        Node(3, Interrupt(BOOLEAN), {"value": Value(2)}),
        Node(4, Format((Slot("a"), Slot("b"))), {"a": Value(0), "b": Value(2)}),
    ),
    (Value(4), Value(3)),
    "turn",
)


async def test_turns_of_a_loop_are_told_apart(servers: Servers) -> None:
    nodes = (Node(0, Input("q")), Node(1, Loop(TURN, 5), {"state": Value(0)}))
    stage = await servers.start()
    first = await worker(stage)
    run = await submit(stage, nodes)
    await waits(stage, run)
    await resume(stage, run, False)
    await waits(stage, run)
    assert ran(first, Tool) == 2
    await servers.crash(stage, run)
    stage = await servers.start()
    second = await worker(stage)
    await waits(stage, run)
    assert not second.nodes()
    await resume(stage, run, False)
    await waits(stage, run)
    await resume(stage, run, True)
    assert (await outcome(stage, run)).outputs[0].text.text == "x" + 3 * "send(again)"
    assert ran(second, Tool) == 1


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
    assert "what the journal has of it cannot be read: " in faults[1].message
    await servers.crash(stage, runs[0])
    stage = await servers.start()
    assert [info.run for info in (await stage.stub.ListRuns(pb.ListRunsRequest())).runs] == [runs[0]]


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
        assert (fault.code, fault.node.split(" ", 1)[1]) == ("internal", "tool 'mail'")
        assert f"not begun: the journal '{servers.folder / FILE}' cannot be written" in fault.message
        with pytest.raises(grpc.aio.AioRpcError, match="make room on its disk") as refused:
            await submit(stage, ASKING)
        assert refused.value.code() is grpc.StatusCode.INTERNAL
    assert not ran(first, Tool)
    run = await submit(stage, ASKING)  # there is room again
    await waits(stage, run)
    with files_of_at_most(1000), pytest.raises(grpc.aio.AioRpcError, match="would ask again"):
        await resume(stage, run, "yes")
    assert (await outcome(stage, run)).info.state == "done"
