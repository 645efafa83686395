"""A run in the Chrome/Perfetto trace format: tracks of workers, the orchestrator, client's tools, people.

Format: "Trace Event Format" of the Chromium project; complete events ("X"), times in microseconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

from google.protobuf.json_format import MessageToDict

from weft.proto import orchestrator_pb2 as pb

from .record import RunRecord

__all__ = ["CLIENT", "ORCHESTRATOR", "PERSON", "PHASES", "chrome_trace"]

ORCHESTRATOR = "orchestrator"
CLIENT = "client"
PERSON = "person"
"""The names of the tracks that are no workers."""

PHASES: Final = ("queued", "fetch", "prefill", "decode", "compute")
"""The parts of the time that a worker measures, in their order: fields of its timing."""


def chrome_trace(record: RunRecord) -> str:
    """The trace as JSON text. Spans that overlap on one track lie in lanes below each other."""
    events: list[dict[str, Any]] = []
    tracks: dict[str, list[pb.NodeStat]] = {ORCHESTRATOR: []}
    for stat in record.stats():
        tracks.setdefault(stat.worker, []).append(stat)
    for pid, (track, stats) in enumerate(tracks.items(), 1):
        events.append(_name("process_name", track, pid, 0))
        for lane, lane_stats in enumerate(_lanes(stats), 1):
            events.append(_name("thread_name", f"lane {lane}", pid, lane))
            for stat in lane_stats:
                events += _spans(record, stat, pid, lane)
    other = {"run": record.id, "program": record.program, "state": record.state}
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms", "otherData": other})


def _lanes(stats: Iterable[pb.NodeStat]) -> list[list[pb.NodeStat]]:
    """The spans in as few lanes as hold them without overlap."""
    lanes: list[list[pb.NodeStat]] = []
    for stat in sorted(stats, key=lambda stat: (_start(stat), stat.node)):
        free = next((lane for lane in lanes if lane[-1].finished_s <= _start(stat)), None)
        if free is None:
            lanes.append([stat])
        else:
            free.append(stat)
    return lanes


def _start(stat: pb.NodeStat) -> float:
    """When the worker could begin: it had the task, and the task its operands."""
    return min(max(stat.ready_s, stat.dispatched_s), stat.finished_s)


def _spans(record: RunRecord, stat: pb.NodeStat, pid: int, lane: int) -> Iterator[dict[str, Any]]:
    timing = MessageToDict(stat.timing, preserving_proto_field_name=True)
    details = {"run": record.id, "node": stat.node, "location": stat.location, **timing}
    details["waited_for_dispatch_s"] = max(0.0, stat.dispatched_s - stat.ready_s)
    yield _span(stat.label, "primitive", _start(stat), stat.finished_s, pid, lane, details)
    begin = _start(stat)
    for phase in PHASES:
        end = min(begin + getattr(stat.timing, phase), stat.finished_s)
        if end > begin:
            yield _span(phase, "phase", begin, end, pid, lane, {"node": stat.node})
            begin = end


def _span(
    name: str, category: str, start_s: float, end_s: float, pid: int, lane: int, args: dict[str, Any]
) -> dict[str, Any]:
    return {
        "name": name,
        "cat": category,
        "ph": "X",
        "ts": start_s * 1e6,
        "dur": (end_s - start_s) * 1e6,
        "pid": pid,
        "tid": lane,
        "args": args,
    }


def _name(kind: str, name: str, pid: int, lane: int) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": pid, "tid": lane, "args": {"name": name}}
