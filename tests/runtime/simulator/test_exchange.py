"""KV goes from worker to worker where the scheduler says so, and whatever goes wrong the prompt is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.runtime.scheduler.policies import Policies
from weft.runtime.simulator.builder import Text
from weft.runtime.simulator.profiles import LLAMA_8B_H200, LlmProfile
from weft.runtime.simulator.programs import Arrival, Program
from weft.runtime.simulator.report import pooled, report
from weft.runtime.simulator.simulation import Outcome, Simulation
from weft.runtime.simulator.workloads import Mix, arrivals

from .conftest import COSTS, LLM, builder, worker, world

LINK: LlmProfile = replace(LLM, kv_token_bytes=1000, link_bytes_per_ms=10_000.0, link_ms=1.0)
"""Reading takes 1 ms a token, fetching 0.1 ms and 1 ms to ask."""
TOLD = Policies(placement="round_robin", link_mb_s=10.0)
"""The speed of the link is known; calls go to the workers in turn."""
HEAD = Text("head", 1000)


def call(name: str, *parts: Text, writes: int = 2) -> Program:
    p = builder(name)
    p.write([*(parts or (HEAD,)), Text(f"own {name}", 10)], writes)
    return p.build()


def serve(
    calls: Sequence[tuple[float, Program]],
    policies: Policies = TOLD,
    llm: LlmProfile = LINK,
    workers: int = 2,
) -> Outcome:
    simulation = world(workers, llm=llm, policies=policies, keep_calls=True)
    return finish(simulation, calls)


def finish(simulation: Simulation, calls: Sequence[tuple[float, Program]]) -> Outcome:
    """Serve all, and see that no KV is left in use."""
    outcome = simulation.run(Arrival(*each) for each in calls)
    for each in simulation._workers.values():
        for model in each.llms.values():
            assert (model.cache.running, model.cache.locked) == pytest.approx((0, 0))
            assert [*model.running, *model.waiting] == []
        for exchange in each.exchanges.values():
            assert [*exchange._coming, *exchange._held_up, *exchange._asked, *exchange._sent] == []
    return outcome


def test_what_one_has_read_another_gets_instead_of_reading_it() -> None:
    outcome = serve([(0.0, call("a")), (5.0, call("b"))])
    assert [run.seconds for run in outcome.runs] == pytest.approx(
        [1.010 + 0.01, 0.101 + 0.010 + 0.01], abs=1e-3
    )
    assert [(c.worker, c.cached, c.fetched, c.computed) for c in outcome.calls] == [
        ("w0", 0, 0, 1010),
        ("w1", 1000, 1000, 10),
    ]
    assert outcome.fetched_tokens == 1000


def test_switched_off_nothing_moves_and_nothing_else_changes() -> None:
    mix = Mix({"rag": 0.4, "coding": 0.1, "chat": 0.2})

    def runs(policies: Policies, llm: LlmProfile) -> Outcome:
        simulation = world(3, llm=replace(llm, kv_slots=60_000), policies=policies)
        return simulation.run(arrivals(mix, 30, 7, COSTS, "graph"))

    off, never = runs(Policies(transfer="never", link_mb_s=10.0), LINK), runs(Policies(), LLM)
    assert off.fetched_tokens == 0
    assert off.runs == never.runs
    assert runs(Policies(link_mb_s=10.0), LINK).fetched_tokens > 0


def test_a_worker_works_on_while_kv_comes() -> None:
    slow = replace(LINK, link_bytes_per_ms=2_000.0)  # it comes for half a second

    def written(*more: tuple[float, Program]) -> tuple[float, float]:
        """When what the second worker writes is finished, and what it gets meanwhile."""
        busy = (4.5, call("busy", Text("else", 90), writes=101))
        outcome = serve([(0.0, call("a")), busy, *more], replace(TOLD, link_mb_s=2.0), slow)
        (own,) = (c for c in outcome.calls if c.written == 101)
        assert own.worker == "w1"
        return own.finished, outcome.fetched_tokens

    turn = (4.6, call("turn", Text("nothing", 10)))  # of the first worker
    alone, nothing = written(turn)
    beside, fetched = written(turn, (5.0, call("b")))
    assert (nothing, fetched) == (0, 1000)
    assert beside == pytest.approx(alone + 0.012, abs=0.005), "but for the ten tokens that are read"


def test_two_that_want_the_same_fetch_it_once() -> None:
    skip = [(5.0 + 0.001 * n, call(f"skip{n}", Text(f"s{n}", 10))) for n in (1,)]
    outcome = serve([(0.0, call("a")), (5.0, call("b")), *skip, (5.002, call("c"))])
    assert [c.fetched for c in outcome.calls if c.worker == "w1"] == [1000, 0]
    assert [c.computed for c in outcome.calls if c.worker == "w1"] == [10, 10]


def test_who_needs_little_of_what_is_coming_does_not_wait_for_it() -> None:
    """A prompt of which the beginning is there waits for no other prompt that only begins like it."""
    slow = replace(LINK, link_bytes_per_ms=100.0)  # ten seconds for a thousand tokens
    more = Text("more", 800)
    calls = [
        (0.0, call("a", HEAD, more)),
        (10.0, call("b", HEAD)),
        (20.0, call("c", HEAD)),
        (30.0, call("d", HEAD, more)),  # gets the rest
        (30.1, call("e", HEAD)),
        (30.2, call("f", HEAD)),
    ]
    outcome = serve(calls, replace(TOLD, link_mb_s=1e3), slow)
    by_name = {run.name: run.seconds for run in outcome.runs}
    fetched = {c.program: c.fetched for c in outcome.calls}
    assert (fetched["b"], fetched["d"]) == (1000, 800)
    assert by_name["d"] > 5
    assert by_name["f"] < 0.1


def test_who_is_still_reading_is_waited_for() -> None:
    outcome = serve([(0.0, call("a")), (0.2, call("b"))])
    late = outcome.runs[1]
    assert outcome.calls[1].fetched == 1000
    assert late.finished == pytest.approx(1.010 + 0.1 + 0.01 + 0.01, abs=0.02)


def test_who_has_evicted_it_sends_nothing_and_it_is_read() -> None:
    simulation = world(2, llm=LINK, policies=TOLD, keep_calls=True)
    simulation.clock.at(4.0, lambda: simulation._workers["w0"].llms["m"].cache.make_room(LINK.kv_slots))
    outcome = finish(simulation, [(0.0, call("a")), (5.0, call("b"))])
    assert outcome.fetched_tokens == 0
    assert outcome.runs[1].seconds == pytest.approx(1.010 + 0.01, abs=0.01), "nobody waits for it"


@pytest.mark.parametrize(("after", "fetched"), [(0.0005, 0), (0.060, 500), (0.2, 1000)])
def test_of_a_worker_that_is_lost_what_has_come_stays(after: float, fetched: int) -> None:
    simulation = world(2, llm=LINK, policies=TOLD, keep_calls=True)
    simulation.clock.at(5.0 + after, partial(simulation.lose, "w0"))
    halves = [Text("first half", 500), Text("second half", 500)]
    outcome = finish(simulation, [(0.0, call("a", *halves)), (5.0, call("b", *halves))])
    assert [(run.fault, c.fetched) for run, c in zip(outcome.runs, outcome.calls, strict=True)] == [
        ("", 0),
        ("", fetched),
    ]
    assert outcome.calls[1].computed == 1010 - fetched


def test_a_run_that_is_cancelled_while_its_kv_comes_leaves_it_to_others() -> None:
    simulation = world(2, llm=LINK, policies=TOLD, keep_calls=True)
    simulation.clock.at(5.010, lambda: simulation.cancel("r2"))
    outcome = finish(
        simulation, [(0.0, call("a")), (5.0, call("b")), (5.001, call("skip")), (5.002, call("c"))]
    )
    assert [run.fault for run in outcome.runs] == ["", "cancelled", "", ""]
    assert outcome.calls[-1].worker == "w1"


@settings(max_examples=60)
@given(
    tokens=st.integers(1, 4000),
    own=st.integers(1, 300),
    bytes_per_ms=st.floats(200, 1e6),
    wrong=st.floats(0.05, 20),
)
def test_no_call_is_slower_than_without_by_more_than_the_error_of_the_decision(
    tokens: int, own: int, bytes_per_ms: float, wrong: float
) -> None:
    """It is told a speed that is wrong by some factor."""
    llm = replace(LINK, link_bytes_per_ms=bytes_per_ms)
    calls = [(10.0 * n, call(f"{n}", Text("head", tokens), Text(f"tail {n}", own))) for n in range(2)]
    told = bytes_per_ms * wrong / 1e3
    moved = serve(calls, replace(TOLD, link_mb_s=told), llm)
    without = serve(calls, replace(TOLD, transfer="never"), llm)
    fetched = moved.fetched_tokens
    believed_ms = 5.0 + fetched * llm.kv_token_bytes / (told * 1e3)
    real_ms = llm.link_ms + fetched * llm.kv_token_bytes / bytes_per_ms
    error_s = max(real_ms - believed_ms, 0.0) / 1e3 if fetched else 0.0
    assert moved.runs[1].seconds <= without.runs[1].seconds + error_s + 1e-3
    assert fetched in (0, tokens)


def test_a_wrong_speed_is_learned() -> None:
    """Told ten times what the link can do, it moves at first, and no more once it has seen it."""
    slow = replace(LINK, link_bytes_per_ms=500.0)  # 2 ms a token; reading takes 1
    calls = [(10.0 * n, call(f"{n}", Text(f"head {n // 2}", 1000))) for n in range(40)]
    outcome = serve(calls, replace(TOLD, link_mb_s=5.0), slow)
    moved = [bool(c.fetched) for c in outcome.calls]
    assert any(moved[:4])
    assert sum(moved[20:]) <= 1


def test_how_long_asking_takes_is_learned() -> None:
    """Far from each other, workers move no short prompts once they have tried."""
    far = replace(LINK, link_ms=300.0)  # reading takes 200
    calls = [(10.0 * n, call(f"{n}", Text(f"head {n // 2}", 200))) for n in range(120)]
    moved = [bool(c.fetched) for c in serve(calls, llm=far).calls]
    assert any(moved[:4])
    assert sum(moved[80:]) <= 2


events = st.lists(st.tuples(st.floats(0, 12), st.integers(0, 2)), max_size=5)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    losses=events,
    cancelled=events,
    slots=st.sampled_from((3_000, 6_000, 60_000)),
)
def test_workers_are_lost_while_they_lend_and_borrow_and_every_run_ends(
    seed: int, losses: list[tuple[float, int]], cancelled: list[tuple[float, int]], slots: int
) -> None:
    llm = replace(LINK, kv_slots=slots, link_bytes_per_ms=2_000.0)
    simulation = world(3, llm=llm, policies=replace(TOLD, link_mb_s=20.0))

    def lose(name: str) -> None:
        if name in simulation._workers:
            simulation.lose(name)
            simulation.clock.after(0.5, partial(simulation.join, worker(name, llm)))

    def cancel(run: str) -> None:
        if run in simulation._runs:
            simulation.cancel(run)

    for time, number in losses:
        simulation.clock.at(time, partial(lose, f"w{number}"))
    for time, number in cancelled:
        simulation.clock.at(time, partial(cancel, f"r{number + 1}"))
    heads = [Text(f"head {n}", 300 + 400 * n) for n in range(3)]
    calls = [
        (
            0.3 * n + 0.01 * (seed % 7),
            call(f"{n}", heads[(seed + n * n) % 3], writes=1 + (seed + 13 * n) % 60),
        )
        for n in range(24)
    ]
    outcome = finish(simulation, calls)
    assert len(outcome.runs) == len(calls)
    assert all(not run.fault or run.fault == "cancelled" or "lost" in run.fault for run in outcome.runs)


def test_on_fast_links_programs_take_no_longer_and_less_is_read() -> None:
    def both(policies: Policies) -> Outcome:
        llm = replace(LLAMA_8B_H200, kv_slots=100_000)
        outcomes = []
        for seed in (1, 2, 3):
            simulation = world(4, llm=llm, policies=policies)
            mix = Mix({"coding": 0.7, "family": 6.0})
            outcomes.append(simulation.run(arrivals(mix, 10.0, seed, llm.costs, "graph")))
        return pooled(outcomes)

    moved, never = (
        report(both(Policies(transfer=each, link_mb_s=25_000.0))) for each in ("cheaper", "never")
    )
    assert moved.fetched_tokens > 0
    assert moved.computed_tokens < 0.9 * never.computed_tokens
    assert moved.latency["all"].mean <= 1.02 * never.latency["all"].mean
