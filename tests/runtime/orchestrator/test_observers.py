"""What others see of runs and of the server."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from weft.graph.codec import encode_graph, encode_value
from weft.graph.ir import Graph, Node, Value
from weft.graph.ops.common import Input, Tool
from weft.graph.ops.user import Generate
from weft.graph.prompt import Message, Slot
from weft.graph.types import TEXT
from weft.proto import orchestrator_pb2 as pb
from weft.proto import worker_pb2
from weft.runtime.orchestrator.record import EventLog
from weft.runtime.scheduler.faults import Fault

GRAPH = Graph(
    (
        Node(0, Input("q")),
        Node(1, Tool("lookup", TEXT, "server", True), {"key": Value(0)}, "find", "app.py:2"),
        Node(2, Generate((Message("raw", ("Q", Slot("q"))),)), {"q": Value(1)}, "ask", "app.py:3"),
    ),
    (Value(2),),
    "seen",
)


async def run(stage: Any) -> pb.RunResult:
    request = pb.SubmitRequest(graph=encode_graph(GRAPH), inputs={"q": '"x"'})
    result: pb.RunResult = await stage.stub.Invoke(request)
    return result


async def test_watch_replays_from_the_beginning(stage: Any) -> None:
    result = await run(stage)
    watch = pb.WatchRequest(run=result.info.run)
    events = [event async for message in stage.stub.Watch(watch) for event in message.events]
    assert events[0].started.program == "seen"
    assert events[-1].finished == result
    phases = Counter(event.node.phase for event in events if event.HasField("node"))
    assert phases == {"started": 3, "done": 3}, "the tool, the prefill and the decode"
    assert [event.at_s for event in events] == sorted(event.at_s for event in events)
    with pytest.raises(grpc.aio.AioRpcError, match="unknown run"):
        _ = [event async for event in stage.stub.Watch(pb.WatchRequest(run="r-none"))]


async def test_list_of_runs(stage: Any) -> None:
    runs = [(await run(stage)).info.run for _ in range(3)]
    listed = await stage.stub.ListRuns(pb.ListRunsRequest())
    assert [info.run for info in listed.runs] == runs[::-1]
    assert len((await stage.stub.ListRuns(pb.ListRunsRequest(limit=2))).runs) == 2
    assert not (await stage.stub.ListRuns(pb.ListRunsRequest(state="failed"))).runs


async def test_trace_has_a_track_for_each_worker(stage: Any) -> None:
    result = await run(stage)
    trace = json.loads((await stage.stub.Trace(pb.TraceRequest(run=result.info.run))).json)
    names = {e["pid"]: e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "process_name"}
    spans = [e for e in trace["traceEvents"] if e.get("cat") == "primitive"]
    tracks = {(names[e["pid"]], e["name"].split()[1]) for e in spans}
    assert {("w1", "tool"), ("w1", "prefill"), ("w1", "decode")} <= tracks
    decode = next(e for e in spans if e["name"].split()[1] == "decode")
    assert decode["args"]["location"] == "app.py:3"
    assert decode["args"]["generated_tokens"] == 3
    assert decode["args"]["run"] == result.info.run
    for event in trace["traceEvents"]:
        assert event["ph"] in "MX"
        assert event.get("dur", 0) >= 0
    lanes: dict[tuple[int, int], float] = {}
    for span in sorted(spans, key=lambda e: e["ts"]):
        lane = (span["pid"], span["tid"])
        assert lanes.get(lane, 0.0) <= span["ts"], "spans of one lane do not overlap"
        lanes[lane] = span["ts"] + span["dur"]


async def test_stats_of_a_finished_run(stage: Any) -> None:
    stats = {stat.label.split()[1]: stat for stat in (await run(stage)).info.stats}
    assert stats["tool"].worker == "w1"
    assert stats["tool"].finished_s <= stats["decode"].finished_s
    assert stats["decode"].ready_s >= stats["tool"].finished_s
    assert stats["tool"].dispatched_s >= stats["tool"].ready_s


async def test_explain_shows_every_pass(stage: Any) -> None:
    explained = await stage.stub.Explain(pb.ExplainRequest(graph=encode_graph(GRAPH)))
    names = [report.name for report in explained.passes]
    assert names[:2] == ["as written", "lower"]
    assert "decode" in explained.passes[-1].text
    assert "generate" in explained.passes[0].text
    assert explained.passes[-1].mermaid.startswith("flowchart")
    assert not stage.server.orchestrator.records
    with pytest.raises(grpc.aio.AioRpcError, match="'nope'"):
        await stage.stub.Explain(pb.ExplainRequest(program="nope"))


async def test_description_of_the_server(stage: Any) -> None:
    info = await stage.stub.Describe(pb.DescribeServerRequest())
    assert [worker.worker_id for worker in info.workers] == ["w1"]
    assert info.default_model == "m"
    assert [index.name for engine in info.workers[0].engines for index in engine.indexes] == ["handbook"]
    assert list(info.programs) == ["gone", "registered"]
    assert info.version


async def test_description_shows_the_indexes_of_the_last_status(stage: Any, until: Any) -> None:
    status = worker_pb2.Status(running=1, indexes=[worker_pb2.IndexInfo(name="fresh", passages=3)])
    stage.workers["w1"].reports.put_nowait(worker_pb2.Report(status=status))
    await until(lambda: "fresh" in stage.server.orchestrator.fleet.deployment.indexes)
    info = await stage.stub.Describe(pb.DescribeServerRequest())
    assert [index.name for engine in info.workers[0].engines for index in engine.indexes] == ["fresh"]
    assert info.status["w1"].running == 1


async def test_health_and_reflection(bare: Any) -> None:
    async with grpc.aio.insecure_channel(bare.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        reply = await health.Check(health_pb2.HealthCheckRequest(service="weft.v1.Orchestrator"))
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
        async for answer in reflection.ServerReflectionInfo(iter(asked)):
            names = {service.name for service in answer.list_services_response.service}
            assert "weft.v1.Orchestrator" in names


async def test_only_so_many_finished_runs_are_kept(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weft.runtime.orchestrator.records._KEPT_RUNS", 2)
    runs = [(await run(stage)).info.run for _ in range(4)]
    assert list(stage.server.orchestrator.records) == runs[2:]


async def test_runs_that_end_together_are_answered_though_few_are_kept(
    stage: Any, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weft.runtime.orchestrator.records._KEPT_RUNS", 1)
    stage.workers["w1"].gated = {Tool}
    orchestrator = stage.server.orchestrator
    answers = [asyncio.ensure_future(run(stage)) for _ in range(3)]
    await until(lambda: len(orchestrator.shell.runs) == 3)
    for live in list(orchestrator.shell.runs.values()):
        orchestrator.run_failed(live, Fault("internal", "all at once"))
    assert [result.fault.message for result in await asyncio.gather(*answers)] == ["all at once"] * 3
    assert len(orchestrator.records) == 1


async def test_log_condenses_deltas_when_it_closes_but_followers_get_each() -> None:
    log = EventLog()
    names = [encode_value(Value(1)), encode_value(Value(2))]

    async def follow() -> list[pb.RunEvent]:
        return [event async for message in log.follow() for event in message.events]

    early = asyncio.create_task(follow())
    await asyncio.sleep(0)
    for text in "abc":
        for name in names:
            log.append(pb.RunEvent(delta=pb.TextDelta(value=name, text=text)))
    log.append(pb.RunEvent(finished=pb.RunResult()))
    log.close()
    assert [event.delta.text for event in await early] == [*"aabbcc", ""]
    assert [event.delta.text for event in await follow()] == ["abc", "abc", ""]
