"""What Prometheus reads of a server, over HTTP."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from weft.graph.codec import encode_graph
from weft.graph.ir import Graph, Node, Value
from weft.graph.ops.common import Const, Input, Interrupt, Tool
from weft.graph.ops.primitive import Decode
from weft.graph.types import TEXT
from weft.proto import orchestrator_pb2 as pb
from weft.proto import orchestrator_pb2_grpc, value_pb2, worker_pb2
from weft.runtime.http.app import build_app, metrics_app
from weft.runtime.http.server import HttpServer
from weft.runtime.telemetry.metrics import Metrics

from .conftest import Door, StartDoor, Until, language_model

HI: list[Any] = [{"role": "user", "content": "hi"}]
CHAT = "/v1/chat/completions"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
OPERATIONS = Path(__file__).parents[3] / "docs" / "operations.md"


async def scrape(door: Door) -> Callable[..., float]:
    """A function that says what a sample was, 0 if it was not there, by its name and its labels."""
    answer = await door.raw.get("/metrics")
    assert answer.status_code == 200
    samples = [sample for family in text_string_to_metric_families(answer.text) for sample in family.samples]

    def value(name: str, **labels: str) -> float:
        found = [s.value for s in samples if s.name == name and labels.items() <= s.labels.items()]
        return sum(found)

    return value


async def ask(door: Door, **more: Any) -> Any:
    return await door.openai.chat.completions.create(model="m", messages=HI, **more)


async def invoke(door: Door, graph: Graph, **inputs: str) -> pb.RunResult:
    async with grpc.aio.insecure_channel(door.grpc) as channel:
        stub: Any = orchestrator_pb2_grpc.OrchestratorStub(channel)
        result: pb.RunResult = await stub.Invoke(pb.SubmitRequest(graph=encode_graph(graph), inputs=inputs))
        return result


def greeting(program: str) -> Graph:
    return Graph((Node(0, Const('"hello"')),), (Value(0),), program)


async def test_both_formats_are_well_formed(door: Door) -> None:
    await ask(door)
    plain = await door.raw.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
    open_ = await door.raw.get("/metrics", headers={"accept": OPENMETRICS})
    assert open_.headers["content-type"].startswith(OPENMETRICS)
    families = list(text_string_to_metric_families(plain.text))
    assert {f.name for f in families} == {
        f.name for f in openmetrics.text_string_to_metric_families(open_.text)
    }
    assert all(family.documentation for family in families)
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    assert not [family.name for family in families if family.type == "unknown"]


async def test_counters_grow_by_what_a_run_did(door: Door) -> None:
    before = await scrape(door)
    assert before("weft_runs_ended_total", state="done") == before("weft_runs_started_total") == 0
    await ask(door)
    async for _ in await ask(door, stream=True):
        pass
    value = await scrape(door)
    assert value("weft_runs_started_total") == value("weft_runs_ended_total", state="done") == 2
    assert value("weft_run_duration_seconds_count", program="chat", state="done") == 2
    assert value("weft_time_to_first_text_seconds_count") == 1
    assert value("weft_primitives_total", kind="llm", model="m", outcome="done") == 4
    assert value("weft_primitive_duration_seconds_count", kind="llm", model="m") == 4
    assert value("weft_primitive_phase_seconds_count", kind="llm", phase="decode") == 4
    assert value("weft_primitive_phase_seconds_count", kind="llm", phase="wait") == 4
    assert value("weft_generated_tokens_total", model="m") == 6
    assert value("weft_time_per_output_token_seconds_count", model="m") == 2
    assert value("weft_http_requests_total", route=CHAT, status="200") == 2
    assert value("weft_http_request_duration_seconds_count", route="/metrics") == 1
    assert value("weft_runs") == 0
    assert value("process_resident_memory_bytes") > 2**20


async def test_histograms_are_cumulative(door: Door) -> None:
    await ask(door)
    value = await scrape(door)
    labels = {"program": "chat", "state": "done"}
    buckets = [value("weft_run_duration_seconds_bucket", le=le, **labels) for le in ("0.025", "60.0", "+Inf")]
    assert buckets == sorted(buckets)
    assert buckets[-1] == value("weft_run_duration_seconds_count", **labels) == 1
    assert 0 < value("weft_run_duration_seconds_sum", **labels) < 60


async def test_failed_runs_are_counted_by_code(door: Door) -> None:
    door.workers[0].faults = [value_pb2.Fault(code="too_large", message="because")]
    await door.refused(CHAT, {"model": "m", "messages": HI})
    value = await scrape(door)
    assert (
        value("weft_runs_ended_total", state="failed")
        == value("weft_runs_failed_total", code="too_large")
        == 1
    )
    assert value("weft_primitives_total", kind="llm", outcome="failed") == 1
    assert value("weft_run_duration_seconds_count", state="failed") == 1
    assert value("weft_http_requests_total", route=CHAT, status="400") == 1


async def test_cancelled_runs_are_counted_and_live_ones_seen(door: Door, until: Until) -> None:
    door.workers[0].gated = {Decode}
    asking = asyncio.create_task(ask(door))
    await until(lambda: [run for run in door.runs.values() if run.record.times])
    value = await scrape(door)
    assert value("weft_runs", state="running") == 1
    assert value("weft_primitives_total", kind="llm", outcome="done") == 1, "the prefill, of a live run"
    assert value("weft_worker_tasks", worker="w1") == 1
    asking.cancel()
    await until(lambda: not door.runs)
    value = await scrape(door)
    assert value("weft_runs_ended_total", state="cancelled") == 1
    assert value("weft_runs_failed_total") == 0
    assert value("weft_primitives_total", kind="llm", outcome="done") == 1
    assert value("weft_primitives_total", kind="llm", outcome="cancelled") == 1
    await until(lambda: door.metrics.requests.count[CHAT, "499"] == 1)


async def test_work_that_loses_its_worker_is_counted_again(door: Door, until: Until) -> None:
    door.workers[0].gated = {Decode}
    asking = asyncio.create_task(ask(door))
    await until(lambda: [run for run in door.runs.values() if run.record.times])
    await door.worker("w2", language_model("m"))
    await door.workers[0].stop()
    await asking
    value = await scrape(door)
    assert value("weft_primitives_total", kind="llm", outcome="superseded") == 1
    assert value("weft_worker_losses_total", kind="llm", model="m") == 1
    assert value("weft_worker_joins_total", kind="llm", model="m") == 2
    assert value("weft_workers", kind="llm", model="m") == 1


async def test_what_the_settings_ask_for_and_is_not_there_is_zero(start_door: StartDoor) -> None:
    door = await start_door()
    answer = await door.raw.get("/metrics")
    absent = re.findall(r'weft_workers{kind="(\w+)",model="(\w*)"} 0.0', answer.text)
    assert absent == [("llm", "m"), ("embed", ""), ("index", "")]


async def test_requests_that_are_refused_are_counted(door: Door) -> None:
    unknown = Graph((Node(0, Tool("none", TEXT, "server")),), (Value(0),), "p")
    with pytest.raises(grpc.aio.AioRpcError, match="none"):
        await invoke(door, unknown)
    value = await scrape(door)
    assert value("weft_runs_refused_total", status="invalid_argument") == 1
    assert value("weft_runs_started_total") == 0


async def test_clients_cannot_make_up_labels(door: Door) -> None:
    for number in range(40):
        await invoke(door, greeting(f"program {number}"))
        await door.raw.get(f"/v1/{number}")
        await door.raw.get(f"/v1/models/{number}")
    async with grpc.aio.insecure_channel(door.grpc) as channel:
        stub: Any = orchestrator_pb2_grpc.OrchestratorStub(channel)
        call = stub.Run()
        start = pb.Start(submit=pb.SubmitRequest(), grows=True)
        fault = value_pb2.Fault(code="my own", message="oops")
        finish = pb.Finish(fault=fault)
        await call.write(pb.RunRequests(requests=[pb.RunRequest(start=start), pb.RunRequest(finish=finish)]))
        await call.done_writing()
        _ = [message async for message in call]
    value = await scrape(door)
    assert value("weft_run_duration_seconds_count", program="other") == 11
    assert value("weft_run_duration_seconds_count") == 41
    assert value("weft_runs_failed_total", code="other") == value("weft_runs_failed_total") == 1
    assert value("weft_http_requests_total", route="other", status="404") == 40
    assert value("weft_http_requests_total", route="/v1/models/{name:path}", status="404") == 40


async def test_a_scrape_looks_at_no_run_that_is_over(door: Door) -> None:
    for _ in range(300):
        await invoke(door, greeting("p"))
    before = await scrape(door)
    door.server.orchestrator.records.clear()
    after = await scrape(door)
    assert after("weft_run_duration_seconds_count") == before("weft_run_duration_seconds_count") == 300


async def test_runs_that_wait_for_people(door: Door, until: Until) -> None:
    graph = Graph((Node(0, Input("q")), Node(1, Interrupt(), {"value": Value(0)})), (Value(1),), "p")
    asking = asyncio.create_task(invoke(door, graph, q='"sure?"'))
    await until(lambda: [run for run in door.runs.values() if run.questions()])
    value = await scrape(door)
    assert (value("weft_runs", state="waiting"), value("weft_runs", state="running")) == (1, 0)
    (run,) = door.runs
    door.server.orchestrator.resume(run, None, '"yes"')
    await asking
    value = await scrape(door)
    assert value("weft_primitives_total", kind="person", outcome="done") == 1
    assert value("weft_primitives_total", kind="tool") == 0, "people do not count as slow tools"


async def test_what_waits_for_a_worker_is_in_the_queue(door: Door, until: Until) -> None:
    await door.workers[0].stop()
    asking = asyncio.create_task(
        invoke(door, Graph((Node(0, Tool("lookup", TEXT, "server", True)),), (Value(0),), "p"))
    )
    await until(lambda: door.runs)
    assert (await scrape(door))("weft_queued", kind="tool", model="lookup") == 1
    assert (await asking).fault.code == "worker_lost"
    value = await scrape(door)
    assert value("weft_queued", kind="tool", model="lookup") == 0
    assert value("weft_runs_failed_total", code="worker_lost") == 1


async def test_what_workers_say_of_their_caches(door: Door, until: Until) -> None:
    status = worker_pb2.Status(
        kv_free=70,
        kv_cached=20,
        kv_running=10,
        contexts=3,
        running=2,
        waiting=1,
        kv_pins_met=5,
        kv_pins_broken=4,
    )
    door.workers[0].reports.put_nowait(worker_pb2.Report(status=status))
    await until(lambda: [link for link in door.server.orchestrator.fleet if link.status])
    value = await scrape(door)
    kv = [
        value("weft_kv_tokens", worker="w1", model="m", state=state)
        for state in ("free", "cached", "running")
    ]
    assert kv == [70, 20, 10]
    assert value("weft_engine_requests", worker="w1", state="waiting") == 1
    assert value("weft_engine_contexts", worker="w1") == 3
    assert value("weft_kv_pinned_tokens_total", worker="w1", outcome="met") == 5
    assert value("weft_kv_pinned_tokens_total", worker="w1", outcome="broken") == 4
    await door.workers[0].stop()
    await until(lambda: not list(door.server.orchestrator.fleet))
    assert "w1" not in (await door.raw.get("/metrics")).text, "no series of workers that are gone"


async def test_the_result_cache_and_the_journal(start_door: StartDoor, until: Until) -> None:
    door = await start_door(journal_mb=4)
    await door.worker("w1")
    for _ in range(2):
        await door.openai.embeddings.create(model="hash", input=["x"])
    value = await scrape(door)
    assert value("weft_result_cache_hits_total") == value("weft_result_cache_entries") == 1
    assert value("weft_result_cache_bytes") > 0
    assert value("weft_primitives_total", kind="embed", model="hash", outcome="reused") == 1
    assert value("weft_journal_bytes") > 4096


async def test_the_metrics_are_open_or_elsewhere(start_door: StartDoor) -> None:
    door = await start_door(api_key="k")
    assert (await door.raw.get("/metrics")).status_code == 200
    assert (await door.raw.get("/v1/models")).status_code == 401
    orchestrator = door.server.orchestrator
    metrics = Metrics(orchestrator)
    apart = HttpServer("127.0.0.1:0", metrics_app(metrics), "--metrics")
    hidden = HttpServer("127.0.0.1:0", build_app(orchestrator, None, metrics, exposed=False))
    at, door_at = await apart.start(), await hidden.start()
    for address, path, status in (
        (at, "metrics", 200),
        (at, "v1/models", 404),
        (door_at, "metrics", 404),
        (door_at, "v1/models", 200),
    ):
        assert (await door.raw.get(f"http://{address}/{path}")).status_code == status
    await asyncio.gather(apart.stop(), hidden.stop())


async def test_the_documentation_is_in_step(door: Door, until: Until) -> None:
    await ask(door)
    door.workers[0].reports.put_nowait(worker_pb2.Report(status=worker_pb2.Status(kv_free=1)))
    other = await door.worker("w2", language_model("m"))
    await other.stop()
    fleet = door.server.orchestrator.fleet
    await until(lambda: fleet.losses and [link for link in fleet if link.status])
    text = (await door.raw.get("/metrics")).text
    families = [f for f in text_string_to_metric_families(text) if f.name.startswith("weft_")]
    found = {
        f"{family.name}_total" if family.type == "counter" else family.name: (
            family.type,
            family.samples[0].labels.keys() - {"le"},
            family.documentation,
        )
        for family in families
    }
    section = OPERATIONS.read_text(encoding="utf-8").partition("## Metrics and traces\n")[2]
    section = section.partition("\n## ")[0]
    rows = re.findall(r"^\| `(weft_\w+)` \| (\w+) \| (.*?) ?\| (.*) \|$", section, re.MULTILINE)
    documented = {name: (kind, set(re.findall(r"\w+", labels)), text) for name, kind, labels, text in rows}
    assert documented == found
    named = set(re.findall(r"weft_\w+", section))
    known = {sample.name for family in families for sample in family.samples} | found.keys()
    assert named <= known, "metrics of the examples that are not there"
