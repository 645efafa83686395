"""What Prometheus and an OpenTelemetry collector see of a real server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx2
import pytest
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client.parser import text_string_to_metric_families

from weft import gen, program

from ..collector import collecting
from .conftest import eventually, serving


@program
def write(text: str) -> str:
    return gen(text, max_tokens=8)


@program
async def grown(text: str) -> str:
    return await gen(text, max_tokens=8)


def samples(address: str | None) -> dict[str, float]:
    """The sums of all samples, by their names."""
    text = httpx2.get(f"http://{address}/metrics").text
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


def test_runs_of_every_kind_are_counted_and_traced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFT_LOG_LEVEL", "error")
    with collecting() as collector:
        monkeypatch.setenv("WEFT_TRACES", collector.url)
        with serving(tmp_path, "--http", "127.0.0.1:0", "--metrics", "127.0.0.1:0") as server:
            client = server.client
            with TracerProvider().get_tracer("test").start_as_current_span("caller") as caller:
                write.using(client)("one")
                asyncio.run(write.using(client).ainvoke("two"))
                write.using(client).submit("three").result(timeout=60)
                write.using(client).submit("four", detached=True).result(timeout=60)
                grown.using(client)("five")
            write.using(client)("six")
            eventually(lambda: sum(span.name.startswith("invoke") for span in collector.spans) == 6)
            mine = f"{caller.get_span_context().trace_id:032x}"
            roots = [span for span in collector.spans if span.name.startswith("invoke_workflow")]
            assert sum(span.trace_id.hex() == mine for span in roots) == 5
            written = [span for span in collector.spans if span.name == "chat reference"]
            assert {span.parent_span_id for span in written} == {span.span_id for span in roots}
            found = samples(server.metrics)
            assert found["weft_runs_ended_total"] == found["weft_run_duration_seconds_count"] == 6
            assert 6 < found["weft_generated_tokens_total"] <= 48
            assert found["weft_prompt_tokens_total"] >= found["weft_computed_tokens_total"] > 0
            assert found["weft_kv_tokens"] > 0
            assert found["weft_spans_sent_total"] == len(collector.spans)
            assert httpx2.get(f"http://{server.http}/metrics").status_code == 404
            collector.status, asked = 503, collector.requests
            write.using(client)("seven")
            eventually(lambda: collector.requests > asked)
        assert server.process.returncode == 0, "it ends in time although spans could not be sent"
