"""The spans of runs, from both doors of a server."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import grpc
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from weft.graph.codec import encode_graph
from weft.graph.ir import Graph, Node, Value
from weft.graph.ops.common import Input, Search, Tool
from weft.graph.ops.primitive import Decode
from weft.graph.ops.user import Generate
from weft.graph.prompt import Message, Slot
from weft.graph.sampling import Sampling
from weft.graph.types import JSON, TEXT
from weft.proto import orchestrator_pb2 as pb
from weft.proto import orchestrator_pb2_grpc, value_pb2
from weft.runtime.config import Settings
from weft.runtime.telemetry import traces as traces_module
from weft.runtime.telemetry.collector import open_traces
from weft.runtime.telemetry.traces import EXPORTER_LOG, Traces

from ...collector import collecting
from .conftest import Door, Until, language_model

HI: list[Any] = [{"role": "user", "content": "hi"}]
CHAT = "/v1/chat/completions"
TRACE, PARENT = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
TRACEPARENT = f"00-{TRACE:032x}-{PARENT:016x}-01"
GRAPH = Graph(
    (
        Node(0, Input("q")),
        Node(1, Input("k", JSON)),
        Node(2, Tool("lookup", TEXT, "server", True), {"key": Value(0)}, "find", "app.py:2"),
        Node(3, Search("handbook", "lexical"), {"query": Value(0), "k": Value(1)}),
        Node(
            4,
            Generate((Message("raw", ("Q", Slot("q"))),), sampling=Sampling(max_tokens=9, temperature=0.5)),
            {"q": Value(2)},
            "ask",
            "app.py:3",
        ),
    ),
    (Value(4), Value(3)),
    "seen",
)


class Traced:
    """A door whose runs leave spans in memory."""

    def __init__(self, door: Door, exporter: SpanExporter | None = None) -> None:
        self.door = door
        self._exporter = exporter or InMemorySpanExporter()
        self.traces = Traces(self._exporter)
        door.server.orchestrator.watchers.append(self.traces.take)

    async def spans(self) -> list[ReadableSpan]:
        """All spans so far, the root of each run first; there will be no more."""
        await asyncio.sleep(0)  # runs are remembered when their clients have been told
        await self.traces.stop()
        assert isinstance(self._exporter, InMemorySpanExporter)
        return sorted(self._exporter.get_finished_spans(), key=lambda span: span.kind is not SpanKind.SERVER)

    async def invoke(
        self, graph: Graph, *, metadata: Any = (), parent: str = "", **inputs: str
    ) -> pb.RunResult:
        async with grpc.aio.insecure_channel(self.door.grpc) as channel:
            stub: Any = orchestrator_pb2_grpc.OrchestratorStub(channel)
            request = pb.SubmitRequest(
                graph=encode_graph(graph), inputs=inputs, namespace="acme", parent=parent
            )
            result: pb.RunResult = await stub.Invoke(request, metadata=metadata)
            return result


def attributes(span: ReadableSpan, beginning: str = "") -> dict[str, Any]:
    return {key: value for key, value in (span.attributes or {}).items() if key.startswith(beginning)}


async def test_a_run_is_a_span_with_one_for_each_primitive(door: Door) -> None:
    traced = Traced(door)
    result = await traced.invoke(GRAPH, q='"secret question"', k="3")
    root, *rest = await traced.spans()
    assert (root.name, root.parent, root.status.status_code) == (
        "invoke_workflow seen",
        None,
        StatusCode.UNSET,
    )
    assert attributes(root) == {
        "gen_ai.operation.name": "invoke_workflow",
        "gen_ai.provider.name": "weft",
        "gen_ai.agent.name": "seen",
        "gen_ai.usage.input_tokens": 0,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.usage.output_tokens": 3,
        "weft.run": result.info.run,
        "weft.namespace": "acme",
        "weft.state": "done",
        "weft.primitives": result.info.nodes_done,
    }
    spans = {span.name: span for span in rest}
    assert spans.keys() == {"execute_tool lookup", "retrieval handbook", "prefill m", "chat m"}
    assert {span.kind for span in rest} == {SpanKind.CLIENT}
    for span in rest:
        assert span.parent == root.context
        times = [time or 0 for time in (root.start_time, span.start_time, span.end_time, root.end_time)]
        assert times[0] > 0
        assert times == sorted(times)
    assert attributes(spans["chat m"], "gen_ai.") == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "weft",
        "gen_ai.request.model": "m",
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.usage.output_tokens": 3,
    }
    written = attributes(spans["chat m"])
    assert written["weft.worker"] == "w1"
    assert written["weft.node"].endswith("decode 'ask'")
    assert (written["code.file.path"], written["code.line.number"]) == ("app.py", 3)
    assert 0 < written["weft.phase.decode"] < 1
    assert attributes(spans["execute_tool lookup"], "gen_ai.tool.")["gen_ai.tool.name"] == "lookup"
    assert attributes(spans["retrieval handbook"])["gen_ai.data_source.id"] == "handbook"
    assert "secret" not in str([span.to_json() for span in (root, *rest)])


async def test_the_trace_of_the_caller_goes_on_by_both_doors(door: Door) -> None:
    traced = Traced(door)
    headers = {"traceparent": TRACEPARENT, "tracestate": "vendor=1"}
    await door.raw.post(CHAT, json={"model": "m", "messages": HI}, headers=headers)
    await traced.invoke(GRAPH, q='"x"', k="1", metadata=tuple(headers.items()))
    await door.raw.post(CHAT, json={"model": "m", "messages": HI})
    await door.raw.post(CHAT, json={"model": "m", "messages": HI}, headers={"traceparent": "nonsense"})
    roots = [span for span in await traced.spans() if span.kind is SpanKind.SERVER]
    parents = {span.parent.span_id: span for span in roots[:2] if span.parent}
    assert parents.keys() == {PARENT}
    assert [span.context.trace_id == TRACE for span in roots] == [True, True, False, False]
    assert [span.context.trace_state.to_header() for span in roots[:2]] == ["vendor=1"] * 2
    assert [span.parent for span in roots[2:]] == [None, None]


async def test_what_a_run_starts_is_in_its_trace(door: Door) -> None:
    traced = Traced(door)
    outer = await traced.invoke(GRAPH, q='"x"', k="1", metadata=(("traceparent", TRACEPARENT),))
    await traced.invoke(GRAPH, q='"x"', k="1", parent=outer.info.run)
    roots = [span for span in await traced.spans() if span.kind is SpanKind.SERVER]
    assert [span.context.trace_id for span in roots] == [TRACE, TRACE]


async def test_what_the_caller_does_not_sample_is_not_sent(door: Door) -> None:
    traced = Traced(door)
    headers = {"traceparent": TRACEPARENT[:-1] + "0"}
    await door.raw.post(CHAT, json={"model": "m", "messages": HI}, headers=headers)
    assert await traced.spans() == []


async def test_failures_and_cancellations_are_seen(door: Door, until: Until) -> None:
    traced = Traced(door)
    door.workers[0].faults = [value_pb2.Fault(code="too_large", message="because")]
    await door.refused(CHAT, {"model": "m", "messages": HI})
    door.workers[0].gated = {Decode}
    asking = asyncio.create_task(door.raw.post(CHAT, json={"model": "m", "messages": HI}))
    await until(lambda: [run for run in door.runs.values() if run.record.times])
    asking.cancel()
    await until(lambda: not door.runs)
    failed, cancelled, *rest = await traced.spans()
    assert (failed.status.status_code, failed.status.description) == (StatusCode.ERROR, "because")
    assert attributes(failed)["error.type"] == "too_large"
    assert attributes(failed)["weft.worker"] == "w1"
    assert (cancelled.status.status_code, attributes(cancelled)["weft.state"]) == (
        StatusCode.UNSET,
        "cancelled",
    )
    outcomes = {attributes(span)["weft.outcome"]: span for span in rest if "weft.outcome" in attributes(span)}
    assert outcomes["failed"].status.status_code is StatusCode.ERROR
    assert outcomes["failed"].parent == failed.context
    assert outcomes["cancelled"].name == "chat m"
    assert outcomes["cancelled"].parent == cancelled.context


async def test_an_attempt_whose_worker_was_lost_has_its_span(door: Door, until: Until) -> None:
    traced = Traced(door)
    door.workers[0].gated = {Decode}
    asking = asyncio.create_task(door.raw.post(CHAT, json={"model": "m", "messages": HI}))
    await until(lambda: [run for run in door.runs.values() if run.record.times])
    await door.worker("w2", language_model("m"))
    await door.workers[0].stop()
    await asking
    written = [span for span in await traced.spans() if span.name == "chat m"]
    assert [(attributes(s)["weft.worker"], attributes(s).get("weft.outcome")) for s in written] == [
        ("w2", None),
        ("w1", "superseded"),
    ]
    assert attributes(written[0])["weft.attempt"] == 2


class Failing(SpanExporter):
    """Delivers nothing while `down`, and says so as the real one does."""

    def __init__(self) -> None:
        self.down = True
        self.batches: list[int] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.batches.append(len(spans))
        if self.down:
            logging.getLogger(EXPORTER_LOG).error("Failed to export")
        return SpanExportResult.FAILURE if self.down else SpanExportResult.SUCCESS


def _has_dropped(traces: Traces, spans: int) -> bool:
    return traces.dropped == spans


async def test_a_collector_that_is_down_costs_spans_and_is_said_once(
    door: Door, until: Until, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(traces_module, "_DELAY_S", 0.01)
    exporter = Failing()
    traces = Traced(door, exporter).traces
    for dropped in (3, 6, 9):
        await door.raw.post(CHAT, json={"model": "m", "messages": HI})
        await until(partial(_has_dropped, traces, dropped))
    assert [record.getMessage() for record in caplog.records if "pan" in record.getMessage()] == [
        "spans cannot be sent, and are dropped until they can"
    ]
    assert [record.getMessage() for record in caplog.records if record.name == EXPORTER_LOG] == [
        "Failed to export"
    ]
    exporter.down = False
    await door.raw.post(CHAT, json={"model": "m", "messages": HI})
    await until(lambda: traces.sent == 3)
    await traces.stop()  # once its thread has said so
    assert "spans are sent again; 9 have been dropped" in caplog.text


async def test_runs_do_not_pile_up_before_a_collector_that_hangs(
    door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(traces_module, "_WAITING_RUNS", 2)
    monkeypatch.setattr(traces_module, "_DELAY_S", 3600)
    traced = Traced(door)
    for _ in range(4):
        await door.raw.post(CHAT, json={"model": "m", "messages": HI})
    await asyncio.sleep(0)
    assert traced.traces.dropped == 6
    assert caplog.text.count("spans are dropped: those of 2 runs have yet to be sent") == 1
    assert len(await traced.spans()) == 6


class Broken(Failing):
    """Fails with what nobody expects, once."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = super().export(spans)
        if len(self.batches) == 1:
            raise RuntimeError("oops")
        return result


async def test_an_exporter_that_breaks_does_not_end_the_traces(
    door: Door, until: Until, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(traces_module, "_DELAY_S", 0.01)
    exporter = Broken()
    exporter.down = False
    traces = Traced(door, exporter).traces
    await door.raw.post(CHAT, json={"model": "m", "messages": HI})
    await until(lambda: traces.dropped == 3)
    assert "RuntimeError: oops" in caplog.text
    await door.raw.post(CHAT, json={"model": "m", "messages": HI})
    await until(lambda: traces.sent == 3)
    await traces.stop()


async def test_large_traces_go_in_several_messages(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces_module, "_BATCH", 2)
    exporter = Failing()
    traces = Traced(door, exporter).traces
    await door.raw.post(CHAT, json={"model": "m", "messages": HI})
    await asyncio.sleep(0)
    await traces.stop()
    assert exporter.batches == [2, 1]


async def test_a_collector_gets_what_the_settings_or_the_variables_say(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    with collecting() as collector:
        by_settings = open_traces(Settings(models=[], traces=f"{collector.url}/"))
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
        by_variables = open_traces(Settings(models=[]))
        assert by_settings
        assert by_variables
        door.server.orchestrator.watchers += [by_settings.take, by_variables.take]
        await door.raw.post(CHAT, json={"model": "m", "messages": HI}, headers={"traceparent": TRACEPARENT})
        await asyncio.sleep(0)
        await asyncio.gather(by_settings.stop(), by_variables.stop())
        assert sorted(span.name for span in collector.spans) == sorted(
            2 * ["chat m", "invoke_workflow chat", "prefill m"]
        )
        assert {span.trace_id.hex() for span in collector.spans} == {f"{TRACE:032x}"}
        assert sorted(resource["service.name"] for resource in collector.resources) == ["mine", "weft"]
        assert (by_settings.sent, by_settings.dropped) == (3, 0)


def test_traces_are_sent_only_if_somebody_asks(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(models=[])
    assert open_traces(settings) is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    assert open_traces(settings) is None
    assert "weft speaks OTLP over HTTP, not over gRPC" in caplog.text
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_PROTOCOL")
    for variable, value in (("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")):
        monkeypatch.setenv(variable, value)
        assert open_traces(settings) is None
        assert open_traces(Settings(models=[], traces="http://127.0.0.1:4318")) is None
        monkeypatch.delenv(variable)


def test_without_the_extra_only_a_setting_is_an_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "weft.runtime.telemetry.traces", None)
    with pytest.raises(
        ValueError, match=r"no traces are sent to http://c:4318, .*pip install 'weft\[otel\]'"
    ):
        open_traces(Settings(models=[], traces="http://c:4318"))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318")
    assert open_traces(Settings(models=[])) is None
    assert "pip install 'weft[otel]'" in caplog.text
