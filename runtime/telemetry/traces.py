"""A trace of each run that has ended, for an OpenTelemetry collector. Needs the extra `otel`.

A thread makes spans of records and sends them, so that no run waits for it or fails by it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from importlib.metadata import version
from typing import Final

from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from weft.runtime.orchestrator.record import OBSERVED, RunRecord

from .spans import Part, parts, whole

__all__ = ["EXPORTER_LOG", "Traces"]

EXPORTER_LOG: Final = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
"""Where the exporter says why spans could not be sent."""

_WAITING_RUNS: Final = 1000  # whose spans have not been sent; those beyond are dropped
_BATCH: Final = 512  # spans in a message
_DELAY_S: Final = 1.0  # between messages, so that runs share them
_CLOSE_S: Final = 1.0  # for what is left when the server stops
_UNNAMED: Final = "unknown_service"

_log = logging.getLogger(__name__)


class Traces:
    """Sends the spans of runs by an `exporter`.

    Sampling, limits and the service's name follow the standard variables OTEL_TRACES_SAMPLER,
    OTEL_SPAN_…_LIMIT, OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES.
    """

    def __init__(self, exporter: SpanExporter) -> None:
        self.sent = 0
        """Spans that the exporter has delivered."""
        self._exporter = exporter
        self._overflown = 0  # by the event loop
        self._failed = 0  # by the thread
        self._full = self._failing = self._given_up = False
        self._records: deque[RunRecord] = deque()
        self._ended = _Ended()
        self._tracer = _tracer(self._ended)
        self._once = _Once()
        logging.getLogger(EXPORTER_LOG).addFilter(self._once)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="weft-traces", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Spans that could not be delivered."""
        return self._overflown + self._failed

    def take(self, record: RunRecord) -> None:
        """Send the trace of a run that has ended, soon."""
        if len(self._records) < _WAITING_RUNS:
            self._records.append(record)
            self._full = False
        else:
            self._overflown += _size(record)
            if not self._full:
                _log.warning("spans are dropped: those of %d runs have yet to be sent", _WAITING_RUNS)
            self._full = True

    async def stop(self) -> None:
        """Send what is left, if that is quickly done."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._closing.set()
        self._thread.join(_CLOSE_S)
        self._given_up = True
        self._exporter.shutdown()
        logging.getLogger(EXPORTER_LOG).removeFilter(self._once)

    # ---- in the thread

    def _serve(self) -> None:
        while not self._closing.wait(_DELAY_S):
            self._send_all()
        self._send_all()

    def _send_all(self) -> None:
        while self._records and not self._given_up:
            record = self._records.popleft()
            try:
                self._make(record)
            except Exception:  # which must not end the thread
                _log.exception("there is no trace of run %s", record.id)
            if not self._records or len(self._ended.spans) >= _BATCH:
                self._export()
            time.sleep(0)  # the event loop may be waiting for the interpreter

    def _make(self, record: RunRecord) -> None:
        parent = TraceContextTextMapPropagator().extract(record.caller, Context())
        run = whole(record)
        root = self._begin(record, run, parent, SpanKind.SERVER)
        if root.is_recording():  # and not left out by the sampler
            inside = set_span_in_context(root, Context())
            for part in parts(record):
                kind = SpanKind.CLIENT if part.remote else SpanKind.INTERNAL
                _end(record, part, self._begin(record, part, inside, kind))
        _end(record, run, root)

    def _begin(self, record: RunRecord, part: Part, parent: Context, kind: SpanKind) -> Span:
        start = _nanoseconds(record, part.start_s)
        return self._tracer.start_span(part.name, parent, kind, part.attributes, start_time=start)

    def _export(self) -> None:
        spans, self._ended.spans = self._ended.spans, []
        for first in range(0, len(spans), _BATCH):
            batch = spans[first : first + _BATCH]
            if self._delivers(batch):
                self.sent += len(batch)
                if self._failing:
                    _log.warning("spans are sent again; %d have been dropped", self.dropped)
                self._failing = self._once.said = False
            else:
                self._failed += len(batch)
                if not self._failing:
                    _log.warning("spans cannot be sent, and are dropped until they can")
                self._failing = True

    def _delivers(self, batch: list[ReadableSpan]) -> bool:
        try:
            return self._exporter.export(batch) is SpanExportResult.SUCCESS
        except Exception:  # which must not end the thread
            _log.exception("%d spans could not be sent", len(batch))
            return False


class _Ended(SpanProcessor):
    """Spans that have ended and have not been sent."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        """Keep a span."""
        self.spans.append(span)


class _Once(logging.Filter):
    """Lets the first message through until it is told that nothing has been `said`."""

    def __init__(self) -> None:
        super().__init__()
        self.said = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is the first."""
        said, self.said = self.said, True
        return not said


def _tracer(ended: SpanProcessor) -> Tracer:
    number = version("weft")
    resource = Resource.create({SERVICE_VERSION: number})
    if str(resource.attributes[SERVICE_NAME]).startswith(_UNNAMED):
        resource = resource.merge(Resource({SERVICE_NAME: "weft"}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(ended)
    return provider.get_tracer("weft", number)


def _end(record: RunRecord, part: Part, span: Span) -> None:
    if part.problem is not None:
        span.set_status(StatusCode.ERROR, part.problem)
    span.end(_nanoseconds(record, part.end_s))


def _nanoseconds(record: RunRecord, at_s: float) -> int:
    return int((record.started_unix_s + at_s) * 1e9)


def _size(record: RunRecord) -> int:
    done = sum(times.node.op.kind in OBSERVED for times in record.times.values())
    return 1 + done + len(record.unfinished)
