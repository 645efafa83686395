"""Engines as they served, measured from recorded calls: what made the recording is found in it again."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace

import pytest

from weft.graph.costs import DecodePoint, PrefillPoint
from weft.proto import graph_pb2, worker_pb2
from weft.proto import orchestrator_pb2 as pb
from weft.runtime.scheduler.scheduler import Scheduler
from weft.runtime.simulator.builder import Text
from weft.runtime.simulator.profiles import LlmProfile
from weft.runtime.simulator.programs import Arrival
from weft.runtime.simulator.served import as_served, batches_of, delays_of
from weft.runtime.simulator.simulation import Delays, Simulation
from weft.runtime.simulator.spread import Spread, Stretch

from .conftest import COSTS, LLM, builder, worker

IDLE = replace(LLM, token_budget=1000, max_running=16)
SERVED = replace(
    IDLE,
    costs=replace(COSTS, prefill=(PrefillPoint(0, 10, 25.0), PrefillPoint(0, 100, 70.0))),
    step_ms=[(1, 13.0), (2, 20.0), (4, 24.0)],
    prompt_ms=7.0,
)
"""20 ms and half of one a token to read; steps take much longer as soon as they write two texts."""
DELAYS = Delays(hop_s=0.002, run_s=0.001)


def served(calls: Sequence[tuple[float, int, int]], llm: LlmProfile = SERVED) -> list[pb.RunInfo]:
    """Single calls: their times, tokens to read and to write, as the orchestrator tells of them."""
    simulation = Simulation(Scheduler(), DELAYS, keep_calls=True)
    simulation.join(worker("w", llm))
    arrivals = []
    for number, (time, reads, writes) in enumerate(calls):
        p = builder(f"call {number}")
        p.write([Text(f"text {number}", reads)], writes)
        arrivals.append(Arrival(time, p.build()))
    outcome = simulation.run(arrivals)
    stats = {call.program: call for call in outcome.calls}
    infos = []
    for run in outcome.runs:
        call = stats[run.name]
        timing = worker_pb2.Timing(
            prefill=call.first_token - call.started,
            decode=call.finished - call.first_token,
            prompt_tokens=int(call.path[-1].tokens),
            computed_tokens=int(call.computed),
            cached_tokens=int(call.cached),
            generated_tokens=call.written,
        )
        infos.append(told(run.started, run.seconds, call.started - run.started + DELAYS.hop_s, timing))
    return infos


def told(started: float, seconds: float, known: float, timing: worker_pb2.Timing) -> pb.RunInfo:
    """A single call. `known`: when the orchestrator had heard that its prefill comes with its decode."""
    prefill = pb.NodeStat(node=0, label="%0 prefill", kind="llm", finished_s=known)
    decode = pb.NodeStat(
        node=1,
        label="%1 decode",
        kind="llm",
        ready_s=known,
        finished_s=seconds - DELAYS.run_s,
        timing=timing,
        operands=[graph_pb2.Value(node=0)],
    )
    return pb.RunInfo(state="done", started_unix_s=started, seconds=seconds, stats=[prefill, decode])


def seconds(llm: LlmProfile, calls: Sequence[tuple[float, int, int]]) -> list[float]:
    return [run.seconds for run in served(calls, llm)]


ALONE = [(3.0 * n, 20 + 15 * n, 9 + n) for n in range(10)]
TOGETHER = [(100.0 + 5.0 * group, 30, 21) for group in range(6) for _ in range((2, 4)[group % 2])]
OTHERS = [(0.13 * n, 10 + 37 * n % 150, 5 + 11 * n % 30) for n in range(30)]


def test_a_step_takes_what_was_measured_between_and_beyond() -> None:
    costs = replace(COSTS, decode=tuple(DecodePoint(n, 1, 10.0 + 2 * n) for n in (1, 2, 4, 8)))
    measured = replace(SERVED, costs=costs)
    assert [measured.steps(n) for n in (1, 2, 3, 4)] == pytest.approx([13, 20, 22, 24])
    assert measured.steps(10) == pytest.approx(24 + 6 * costs.decode_terms[1])
    assert LLM.steps(4) == pytest.approx(COSTS.decode_ms(4, 0))


def test_delays_are_what_is_left_beside_the_engines() -> None:
    found = delays_of(served(ALONE))
    assert (found.hop_s, found.run_s) == pytest.approx((DELAYS.hop_s, DELAYS.run_s), abs=1e-6)
    assert delays_of([]) == Delays(0.0)


def test_what_a_model_takes_is_found_in_calls_alone_and_at_once() -> None:
    found = as_served(served([*ALONE, *TOGETHER]), IDLE)
    assert found.costs.prefill_ms(0, 60) == pytest.approx(SERVED.costs.prefill_ms(0, 60), rel=0.02)
    assert dict(found.step_ms) == pytest.approx(dict(SERVED.step_ms), rel=0.02)
    assert found.prompt_ms == pytest.approx(SERVED.prompt_ms, rel=0.1)


def test_what_a_prompt_adds_to_the_step_after_it_is_found_in_texts_of_several_lengths() -> None:
    cold = replace(SERVED, after_prompt_ms=9.0)
    assert as_served(served(ALONE, cold), IDLE).after_prompt_ms == pytest.approx(9.0, rel=0.05)
    assert as_served(served(ALONE), IDLE).after_prompt_ms == pytest.approx(0.0, abs=0.1)
    equal = as_served(served([(time, reads, 9) for time, reads, _ in ALONE], cold), IDLE)
    assert equal.after_prompt_ms == 0
    assert dict(equal.step_ms)[1] == pytest.approx(13 + 9 / 8, rel=0.02), "nothing tells them apart"


def test_other_calls_take_in_the_simulator_what_they_took() -> None:
    found = as_served(served([*ALONE, *TOGETHER]), IDLE)
    real, idle, virtual = (seconds(llm, OTHERS) for llm in (SERVED, IDLE, found))
    assert virtual == pytest.approx(real, rel=0.05)
    assert idle != pytest.approx(real, rel=0.2), "the profile of an idle worker says something else"


def test_how_evenly_a_machine_computed_is_found_in_calls_alone() -> None:
    spread = Spread(((0.7, 1.0), (1.0, 2.0), (2.2, 1.0)), lasts_s=2.0)
    stretch, now, infos = Stretch(spread, "seed"), 0.0, list[pb.RunInfo]()
    for number in range(4000):
        reads, writes = 20 + 37 * number % 60, 9 + 3 * number % 8
        slow = stretch.at(now) / 1e3
        timing = worker_pb2.Timing(
            prefill=slow * SERVED.costs.prefill_ms(0, reads),
            decode=slow * SERVED.steps(1) * (writes - 1),
            prompt_tokens=reads,
            computed_tokens=reads,
            generated_tokens=writes,
        )
        took = timing.prefill + timing.decode
        infos.append(told(now, took, 0.0, timing))
        now += took + 0.01
    found = as_served(infos, IDLE)
    assert found.spread is not None
    assert found.spread.lasts_s == pytest.approx(spread.lasts_s, rel=0.2)
    calls = [(3.0 * n, 20 + 37 * n % 60, 9 + 3 * n % 8) for n in range(400)]
    uneven = replace(SERVED, spread=spread)
    real, virtual, even = (
        statistics.quantiles(seconds(llm, calls), n=20)
        for llm in (uneven, found, replace(found, spread=None))
    )
    assert (virtual[9], virtual[18]) == pytest.approx((real[9], real[18]), rel=0.1)
    assert even[18] < 0.8 * real[18]


def test_what_was_not_measured_stays_as_it_was() -> None:
    cold = replace(SERVED, after_prompt_ms=9.0)
    assert as_served([], cold) == cold
    few = as_served(served(ALONE[:3]), IDLE)
    assert few.costs == IDLE.costs
    assert as_served(served(ALONE), IDLE).spread is None, "no two of them in a row"
    assert [count for count, _ in few.step_ms] == [1]


def test_engines_that_compute_batches_are_as_fast_as_they_were() -> None:
    stats = [
        pb.NodeStat(node=n, kind="embed", timing=worker_pb2.Timing(compute=ms / 1e3))
        for n, ms in enumerate((9.0, 10.0, 40.0))
    ]
    found = {profile.kind: profile.call_ms for profile in batches_of([pb.RunInfo(stats=stats)])}
    assert found == pytest.approx({"embed": 10.0, "index": 1.0, "rerank": 1.0})
