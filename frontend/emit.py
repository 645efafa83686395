"""`emit`: progress, and whatever else is no result, for those who follow a run."""

from __future__ import annotations

from typing import Any

from .client.emitting import run_here
from .dynamic import LiveTrace
from .errors import TraceError
from .location import located
from .trace import tracing

__all__ = ["emit"]


def emit(value: Any) -> None:
    """In a tool or an async program: `events` of the run have an `Emitted` with this value, in this process.

    In a tool that is called outside of programs, it does nothing. Raises TraceError in a `def` program, whose
    code runs only once.
    """
    trace = tracing()
    if trace is not None and not isinstance(trace, LiveTrace):
        raise TraceError(located("emit() tells what happens in a run: call it in a tool or an async program"))
    journal = run_here()
    if journal is not None:
        journal.emit(value)
