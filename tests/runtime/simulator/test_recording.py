"""Recorded runs become programs that take in the simulator what they took."""

from __future__ import annotations

import pytest

from weft.proto import graph_pb2, worker_pb2
from weft.proto import orchestrator_pb2 as pb
from weft.runtime.simulator.recording import RecordingError, arrivals_of, read_recording, write_recording

from .conftest import COSTS, world


def stat(
    node: int, label: str, kind: str, times: tuple[float, float], *operands: int, **timing: float
) -> pb.NodeStat:
    """A primitive that was ready, and dispatched, at one time and finished at another."""
    ready, finished = times
    numbers = {n: int(v) if n.endswith("tokens") else v for n, v in timing.items()}
    return pb.NodeStat(
        node=node,
        label=f"%{node} {label}",
        kind=kind,
        ready_s=ready,
        dispatched_s=ready,
        finished_s=finished,
        operands=[graph_pb2.Value(node=operand) for operand in operands],
        timing=worker_pb2.Timing(**numbers),  # type: ignore[arg-type]  # by name
        location=f"app.py:{node}",
    )


def recorded(name: str, started: float, cached: int = 0) -> pb.RunInfo:
    """Embed, search, read 100 tokens, write 11; the client takes 300 ms; write 6 more."""
    stats = [
        stat(1, "embed", "embed", (0.0, 0.01), compute=0.01),
        stat(2, "search", "index", (0.01, 0.03), 1, compute=0.02),
        stat(3, "prefill", "llm", (0.03, 0.03), 2),
        stat(4, "decode", "llm", (0.03, 0.23), 3, prefill=0.1, decode=0.1, prompt_tokens=100,
             cached_tokens=cached, computed_tokens=100 - cached, generated_tokens=11),
        stat(5, "prefill", "llm", (0.53, 0.53), 4),
        stat(6, "decode", "llm", (0.53, 0.62), 5, prefill=0.04, decode=0.05, prompt_tokens=151,
             cached_tokens=110, computed_tokens=41, generated_tokens=6),
        stat(7, "format", "host", (0.62, 0.621), 6),
    ]  # fmt: skip
    return pb.RunInfo(
        run=name, program="p", state="done", started_unix_s=1000.0 + started, seconds=0.621, stats=stats
    )


def test_a_recorded_run_takes_what_it_took() -> None:
    runs = [recorded("r1", 0.0), recorded("r2", 5.0, cached=60), recorded("r3", 6.0, cached=60)]
    arrivals = arrivals_of(runs, COSTS)
    assert [arrival.time for arrival in arrivals] == [0.0, 5.0, 6.0]
    outcome = world().run(arrivals)
    assert [run.fault for run in outcome.runs] == ["", "", ""]
    took = [run.finished - run.started for run in outcome.runs]
    assert took[0] == pytest.approx(0.621, abs=0.03)
    assert took[1:] == pytest.approx([0.561, 0.561], abs=0.03), "60 tokens at 1 ms had been read before"
    assert outcome.runs[0].client_s == pytest.approx(0.3, abs=0.01)
    assert outcome.written_tokens == 3 * 17


def test_failed_runs_are_left_out() -> None:
    failed = recorded("r2", 1.0)
    failed.state = "failed"
    assert len(arrivals_of([recorded("r1", 0.0), failed], COSTS)) == 1
    assert arrivals_of([], COSTS) == []


def test_a_text_that_the_model_ended_took_a_step_more() -> None:
    """What ends it is drawn like any token, but is none of the text's."""
    forced, ended = recorded("r1", 0.0), recorded("r1", 0.0)
    for each in ended.stats:
        each.timing.finish = "stop" if each.timing.decode else ""
    (one,), (other,) = (world().run(arrivals_of([run], COSTS)).runs for run in (forced, ended))
    assert other.finished - one.finished == pytest.approx(2 * 0.01)


def test_a_recording_is_read_as_it_was_written() -> None:
    runs = [recorded("r1", 0.0), recorded("r2", 1.0)]
    assert read_recording([*write_recording(runs), ""]) == runs
    with pytest.raises(RecordingError, match="line 2 is no recorded run"):
        read_recording([*write_recording(runs[:1]), "{"])
