"""What a run spent its time on, in a line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["summary"]


def summary(trace: dict[str, Any]) -> str:
    """The primitives of a trace in the order of their starts, one kind together: ``decode 3 × 41 ms``."""
    spans = sorted(_primitives(trace["traceEvents"]), key=lambda span: span["ts"])
    seconds: dict[str, list[float]] = {}
    for span in spans:
        seconds.setdefault(_kind(span["name"]), []).append(span["dur"] / 1e6)
    return " · ".join(_one(kind, durations) for kind, durations in seconds.items())


def _primitives(events: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    tracks = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    return [e for e in events if e.get("cat") == "primitive" and tracks[e["pid"]] != "orchestrator"]


def _kind(label: str) -> str:
    """``%3 decode 'answer' (app.py:7)`` -> ``decode 'answer'``."""
    return label.split(" (")[0].split(" ", 1)[-1]


def _one(kind: str, durations: list[float]) -> str:
    mean = 1000 * sum(durations) / len(durations)
    times = f"{len(durations)} × " if len(durations) > 1 else ""
    return f"{kind} {times}{mean:.0f} ms"
