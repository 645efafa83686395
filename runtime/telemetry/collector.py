"""Whether traces are wanted, and of which collector, by the settings and the standard variables."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Final

from weft.runtime.config import Settings

if TYPE_CHECKING:
    from .traces import Traces

__all__ = ["open_traces"]

_PATH: Final = "/v1/traces"
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_REMEDY: Final = "pip install 'weft[otel]'"

_log = logging.getLogger(__name__)


def open_traces(settings: Settings) -> Traces | None:
    """Traces for the collector that the settings name, or else the environment; None: neither does.

    Raises ValueError if the settings name one and the extra `otel` is not installed.
    """
    named = _variable(_ENDPOINTS)
    if not (settings.traces or named) or _is_off():
        return None
    if not settings.traces and _variable(_PROTOCOLS).startswith("grpc"):
        _log.warning("no traces are sent to %s: weft speaks OTLP over HTTP, not over gRPC", named)
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        from .traces import Traces
    except ImportError as problem:
        message = f"no traces are sent to {settings.traces or named}, because of: {problem}; {_REMEDY}"
        if settings.traces:
            raise ValueError(message) from None
        _log.warning("%s", message)  # the variable may be meant for others
        return None
    endpoint = settings.traces.rstrip("/") + _PATH if settings.traces else None
    return Traces(OTLPSpanExporter(endpoint))


def _variable(names: tuple[str, ...]) -> str:
    return next((value for name in names if (value := os.environ.get(name, ""))), "")


def _is_off() -> bool:
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    exporters = os.environ.get("OTEL_TRACES_EXPORTER") or "otlp"
    return disabled or "otlp" not in exporters.split(",")
