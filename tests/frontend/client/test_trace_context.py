"""The caller's trace goes with a run."""

from __future__ import annotations

import sys

import pytest
from opentelemetry.sdk.trace import TracerProvider

from weft.frontend.client.trace_context import trace_context


def test_the_span_that_the_caller_is_in() -> None:
    assert trace_context() == ()
    with TracerProvider().get_tracer("test").start_as_current_span("caller") as span:
        ids = span.get_span_context()
        parent = f"00-{ids.trace_id:032x}-{ids.span_id:016x}-{ids.trace_flags:02x}"
        assert trace_context() == (("traceparent", parent),)


def test_who_does_not_use_opentelemetry_does_not_load_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with TracerProvider().get_tracer("test").start_as_current_span("caller"):
        monkeypatch.delitem(sys.modules, "opentelemetry.trace")
        assert trace_context() == ()
