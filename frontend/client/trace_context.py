"""The OpenTelemetry trace that the caller is in, so that the server's spans become part of it."""

from __future__ import annotations

import sys

__all__ = ["Metadata", "trace_context"]

Metadata = tuple[tuple[str, str], ...]
"""Of a gRPC call."""


def trace_context() -> Metadata:
    """The current W3C trace context; empty: there is none."""
    if "opentelemetry.trace" not in sys.modules:  # then nobody can have begun a span
        return ()
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return tuple(carrier.items())
