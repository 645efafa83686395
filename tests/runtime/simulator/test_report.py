"""Quantiles, goodput, fairness; and traces in Mooncake's format."""

from __future__ import annotations

import json
from functools import partial

import pytest

from weft.runtime.simulator.builder import Text
from weft.runtime.simulator.mooncake import TraceError, read_trace, write_trace
from weft.runtime.simulator.programs import Arrival
from weft.runtime.simulator.report import goodput, jain, pooled, report
from weft.runtime.simulator.simulation import Outcome, RunStat

from .conftest import COSTS, builder, world


def test_quantiles_leave_failed_runs_out() -> None:
    runs = [RunStat("a" if n % 2 else "b", "", 0.0, float(n + 1)) for n in range(100)]
    found = report(Outcome([*runs, RunStat("a", "", 0.0, 999.0, "failed")])).latency
    assert (found["all"].runs, found["all"].p50, found["all"].p95, found["all"].p99) == (100, 50, 95, 99)
    assert found["a"].mean == pytest.approx(51.0)
    assert report(Outcome([])).latency["all"].runs == 0


def test_outcomes_are_pooled_as_if_one_had_followed_on_the_other() -> None:
    def outcome(seconds: float, program: str) -> Outcome:
        runs = [RunStat(program, "", 0.0, seconds)]
        return Outcome(runs, seconds=10.0, primitives=3, cached_tokens=5.0, loads={"w": seconds})

    both = pooled([outcome(1.0, "a"), outcome(3.0, "b")])
    assert [run.name for run in both.runs] == ["a", "b"]
    assert (both.seconds, both.primitives, both.cached_tokens, both.loads) == (20.0, 6, 10.0, {"w": 4.0})
    assert report(both).latency["all"].mean == 2.0
    assert pooled([]) == Outcome([])


def test_goodput_counts_those_in_time() -> None:
    runs = [RunStat("a", "", 0.0, seconds) for seconds in (1.0, 2.0, 4.0)]
    runs.append(RunStat("a", "", 0.0, 0.5, "failed"))
    assert goodput(runs, [1.0, 1.0, 1.0, 1.0], 2.0) == 0.5
    assert goodput([], [], 2.0) == 0.0


def test_jain() -> None:
    assert jain([2.0, 2.0, 2.0]) == pytest.approx(1.0)
    assert jain([1.0, 0.0, 0.0, 0.0]) == pytest.approx(0.25)
    assert jain([]) == 1.0


def test_a_trace_that_was_written_is_read_as_the_same_calls_with_the_same_beginnings() -> None:
    simulation = world(keep_calls=True)
    for number in range(4):
        p = builder(f"p{number}", form="calls")
        p.write([Text("head", 1024), Text(f"own {number % 2}", 300)], 7)
        simulation.clock.at(number * 10.0, partial(simulation.start, p.build()))
    lines = list(write_trace(simulation.run([]).calls))
    requests = [json.loads(line) for line in lines]
    assert [request["timestamp"] for request in requests] == [0, 10_000, 20_000, 30_000]
    assert {(r["input_length"], r["output_length"]) for r in requests} == {(1324, 7)}
    assert [r["hash_ids"] for r in requests] == [[0, 1, 2], [0, 1, 3], [0, 1, 2], [0, 1, 3]]
    outcome = world().run(read_trace(lines, COSTS))
    assert [round(run.started) for run in outcome.runs] == [0, 10, 20, 30]
    assert outcome.cached_tokens == 1024 + 1323 * 2
    assert outcome.written_tokens == 28


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 1 is no JSON object"),
        ("[]", "line 1 is no JSON object"),
        ('{"timestamp": 1, "input_length": 5}', "line 1: output_length must be a number"),
        ('{"timestamp": -1, "input_length": 5, "output_length": 1}', "timestamp must be"),
        ('{"timestamp": 1, "input_length": 600, "output_length": 1, "hash_ids": [1]}', "one id for each 512"),
    ],
)
def test_lines_that_are_no_requests_are_refused(line: str, says: str) -> None:
    with pytest.raises(TraceError, match=says):
        list(read_trace([line], COSTS))


def test_empty_lines_and_empty_prompts_are_harmless() -> None:
    lines = ["", '{"timestamp": 0, "input_length": 0, "output_length": 0, "hash_ids": []}']
    found = list(read_trace(lines, COSTS))
    assert [isinstance(arrival, Arrival) for arrival in found] == [True]
    assert not world().run(found).runs[0].fault
