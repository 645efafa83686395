"""Whose trace a run belongs to, as W3C Trace Context says it: in HTTP headers and in gRPC metadata alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Final

__all__ = ["CALLER", "caller_of"]

_KEYS: Final = frozenset({"traceparent", "tracestate"})

CALLER: Final[ContextVar[Mapping[str, str]]] = ContextVar("CALLER")
"""The trace context of the request that is being served."""


def caller_of(fields: Iterable[tuple[str | bytes, str | bytes]]) -> dict[str, str]:
    """The trace context among headers or metadata, whose names are in lower case; empty: there is none."""
    found = {}
    for name, value in fields:
        key = name.decode("latin-1") if isinstance(name, bytes) else name
        if key in _KEYS:
            found[key] = value.decode("latin-1") if isinstance(value, bytes) else value
    return found
