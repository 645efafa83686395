"""Recorded runs become programs that take in the simulator what they took."""

from __future__ import annotations

import pytest

from weft.proto import graph_pb2, worker_pb2
from weft.proto import orchestrator_pb2 as pb
from weft.runtime.simulator.recording import (
    RecordingError,
    arrivals_of,
    as_recorded,
    batches_of,
    delays_of,
    read_recording,
    write_recording,
)

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


def test_failed_runs_are_left_out_and_engines_are_as_fast_as_they_were() -> None:
    failed = recorded("r2", 1.0)
    failed.state = "failed"
    runs = [recorded("r1", 0.0), failed]
    assert len(arrivals_of(runs, COSTS)) == 1
    assert arrivals_of([], COSTS) == []
    assert {profile.kind: round(profile.call_ms) for profile in batches_of(runs)} == {
        "embed": 10,
        "index": 20,
        "rerank": 1,
    }
    assert delays_of(runs).hop_s == pytest.approx(0.0, abs=1e-6)
    late = recorded("r3", 0.0)
    for each in late.stats:
        each.finished_s += 0.004
    assert delays_of([late]).hop_s == pytest.approx(0.002)


def test_a_recording_is_read_as_it_was_written() -> None:
    runs = [recorded("r1", 0.0), recorded("r2", 1.0)]
    assert read_recording([*write_recording(runs), ""]) == runs
    with pytest.raises(RecordingError, match="line 2 is no recorded run"):
        read_recording([*write_recording(runs[:1]), "{"])


def test_costs_are_stretched_to_what_requests_took_that_were_alone() -> None:
    def stretched(*runs: pb.RunInfo) -> tuple[float, float]:
        costs = as_recorded(runs, COSTS)
        return costs.prefill_ms(0, 100) / COSTS.prefill_ms(0, 100), costs.decode_ms(1, 100) / COSTS.decode_ms(
            1, 100
        )

    assert stretched() == (1.0, 1.0)
    assert stretched(recorded("r1", 0.0)) == pytest.approx((140 / 141, 1.0), rel=0.01)
    slow = recorded("r2", 0.0)
    for each in slow.stats:
        each.timing.prefill *= 2
        each.timing.decode *= 3
    assert stretched(slow) == pytest.approx((280 / 141, 3.0), rel=0.01)
    beside = recorded("r3", 0.1)
    assert stretched(slow, beside) == pytest.approx((120 / 82, 2.0), rel=0.01), (
        "the second request of each was alone"
    )
