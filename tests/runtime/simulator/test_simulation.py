"""Whole programs on modelled workers: they take what their critical path takes, and all of them end."""

from __future__ import annotations

import gc
import random
from collections import Counter
from dataclasses import replace
from functools import partial
from statistics import fmean

import pytest

from weft.graph.ops.primitive import Decode, Prefill
from weft.runtime.scheduler.policies import Policies
from weft.runtime.scheduler.scheduler import Scheduler
from weft.runtime.simulator.builder import Form, Text
from weft.runtime.simulator.profiles import LLAMA_8B_H200
from weft.runtime.simulator.programs import Arrival
from weft.runtime.simulator.report import report
from weft.runtime.simulator.simulation import RunStat, Simulation
from weft.runtime.simulator.worker import SimWorker
from weft.runtime.simulator.workloads import WORKLOADS, Mix, arrivals, one

from .conftest import COSTS, LLM, builder, small, worker, world

NOTHING = Policies("fifo", "arrival", "none", "least_loaded", "everybody")


def test_a_chain_takes_as_long_as_its_parts() -> None:
    p = builder()
    first = p.write([Text("question", 100)], 11)
    found = p.tool("t", 500.0, [first], tokens=50)
    p.write([Text("question", 100), first, found], 21)
    outcome = world().run([Arrival(1.0, p.build())])
    (run,) = outcome.runs
    assert run.started == 1.0
    assert run.seconds == pytest.approx(0.2 + 0.05 + 0.2, abs=0.005)
    assert run.client_s == pytest.approx(0.5)
    assert (outcome.computed_tokens, outcome.written_tokens) == (150, 32)


def test_what_is_independent_runs_at_the_same_time_and_a_join_waits_for_all() -> None:
    p = builder()
    parts = [p.tool("t", ms, tokens=5) for ms in (100.0, 900.0, 300.0)]
    p.write([Text("head", 100), *parts], 2)
    (run,) = world().run([Arrival(0.0, p.build())]).runs
    assert run.seconds == pytest.approx(0.01 + 0.01, abs=0.005), "the head was read meanwhile"
    calls = builder(form="calls")
    parts = [calls.tool("t", ms, tokens=5) for ms in (100.0, 900.0, 300.0)]
    calls.write([Text("head", 100), *parts], 2)
    (run,) = world().run([Arrival(0.0, calls.build())]).runs
    assert run.seconds == pytest.approx(0.115 + 0.01, abs=0.005), "a call reads all of it"


def test_a_graph_forks_what_calls_read_again_and_again() -> None:
    def prompts(form: Form) -> tuple[list[int], int]:
        p = builder(form=form)
        for name in "abc":
            p.write([Text("head", 100), p.input(name, 10)], 5)
        nodes = [primitive.node for primitive in p.build().increments[None].primitives]
        reads = [len(n.args) for n in nodes if isinstance(n.op, Prefill)]
        return reads, sum(isinstance(n.op, Decode) for n in nodes)

    assert prompts("graph") == ([0, 1, 1, 1], 3)
    assert prompts("calls") == ([0, 0, 0], 3)


def test_prompts_that_have_been_read_keep_no_others_from_being_read() -> None:
    """A worker says when it begins to write: a fifth of a second's reading is all that it is given ahead."""
    arriving = []
    for number in range(40):
        p = builder()
        p.write([Text(f"question {number}", 100)], 500)
        arriving.append(Arrival(number / 50, p.build()))
    calls = world(llm=replace(LLM, kv_slots=100_000, max_running=64), keep_calls=True).run(arriving).calls
    assert max(call.first_token for call in calls) < min(call.finished for call in calls)


def test_what_has_come_to_an_engine_is_served_in_the_order_of_runs() -> None:
    """A second call of a run that began before goes before the first one of a run that came meanwhile."""
    p = builder("old")
    first = p.write([Text("old", 100)], 100)
    p.write([Text("next", 100), first], 100)
    arriving = [Arrival(0.0, p.build())]
    for number in range(3):
        q = builder(f"new {number}")
        q.write([Text(f"new {number}", 100)], 300)
        arriving.append(Arrival(0.1 * (number + 1), q.build()))
    outcome = world(llm=small(500)).run(arriving)  # which holds one of the new ones at a time
    assert min(outcome.runs, key=lambda run: run.finished).name == "old"


def test_increments_begin_when_their_trigger_is_known() -> None:
    p = builder()
    said = p.write([Text("q", 10)], 2)
    reply = p.tool("user", 2000.0, [said], tokens=10)
    p.after(reply)
    p.write([Text("q", 10), said, reply], 2)
    program = p.build()
    assert program.grows
    (run,) = world().run([Arrival(0.0, program)]).runs
    assert run.finished == pytest.approx(2.0 + 4 * 0.01, abs=0.03)


@pytest.mark.parametrize("name", sorted(WORKLOADS))
@pytest.mark.parametrize("form", ["graph", "calls"])
def test_every_workload_ends_under_either_form_and_extreme_policies(name: str, form: Form) -> None:
    for policies in (Policies(), NOTHING):
        simulation = world(2, llm=small(150_000), policies=policies)
        programs = [one(name, random.Random(n), COSTS, form, f"{n}") for n in range(2)]
        outcome = simulation.run(Arrival(n * 0.5, program) for n, program in enumerate(programs))
        assert [run.fault for run in outcome.runs] == ["", ""]
        assert sum(outcome.loads.values()) > 0


def test_the_same_seed_gives_the_same_runs() -> None:
    def once() -> list[RunStat]:
        simulation = world(3, llm=small(60_000))
        return simulation.run(arrivals(Mix({"rag": 0.5, "debate": 0.3}), 30, 7, COSTS, "graph")).runs

    assert once() == once()


@pytest.mark.parametrize("seed", range(4))
def test_workers_come_and_go_and_every_run_ends(seed: int) -> None:
    rng = random.Random(seed)
    simulation = world(3, llm=small(60_000))
    for number in range(6):
        name, time = f"w{rng.randrange(3)}", 3.0 + 5 * number
        simulation.clock.at(time, partial(simulation.lose, name))
        simulation.clock.at(time + 2.0, partial(simulation.join, worker(name)))
    mix = Mix({"rag": 0.4, "coding": 0.1, "chat": 0.2})
    runs = simulation.run(arrivals(mix, 30, seed, COSTS, "graph")).runs
    assert len(runs) > 5
    assert {run.fault for run in runs} <= {""} or all("lost" in run.fault for run in runs if run.fault)


@pytest.mark.parametrize("grows", [False, True])
def test_what_waits_for_a_worker_that_does_not_come_back_fails(grows: bool) -> None:
    p = builder()
    reply = p.write([Text("q", 10)], 100)
    if grows:
        p.after(reply)
    p.write([Text("q", 10), reply], 2)
    program = p.build()
    assert program.grows == grows
    simulation = world(policies=Policies(grace_s=4.0))
    simulation.clock.at(0.5, partial(simulation.lose, "w0"))
    (run,) = simulation.run([Arrival(0.0, program)]).runs
    assert "'w0' was lost" in run.fault
    assert run.finished == pytest.approx(4.5)


def test_a_cancelled_run_ends_at_once_and_leaves_its_engines_to_others() -> None:
    simulation = world()
    p = builder()
    p.write([Text("q", 10)], 1000)
    q = builder("q")
    q.write([Text("other", 10)], 5)
    simulation.clock.at(0.0, lambda: None)
    run = simulation.start(p.build())
    simulation.clock.at(0.5, lambda: simulation.cancel(run))
    outcome = simulation.run([Arrival(1.0, q.build())])
    assert [(r.name, r.fault) for r in outcome.runs] == [("p", "cancelled"), ("q", "")]
    assert outcome.runs[0].finished == 0.5
    assert sum(outcome.loads.values()) < 0.7


def test_a_call_that_no_pool_can_hold_fails_instead_of_waiting_for_ever() -> None:
    p = builder()
    p.write([Text("q", 9000)], 1100)
    (run,) = world().run([Arrival(0.0, p.build())]).runs
    assert "needs 10100 tokens of KV" in run.fault


def test_a_program_without_a_worker_for_it_fails() -> None:
    simulation = world(0)
    p = builder()
    p.write([Text("q", 10)], 2)
    (run,) = simulation.run([Arrival(0.0, p.build())]).runs
    assert "no worker offers" in run.fault


def test_a_report_counts_what_was_read_twice() -> None:
    simulation = world(
        2, policies=Policies("fifo", "arrival", "none", "round_robin", "everybody"), keep_calls=True
    )
    programs = []
    for number in range(2):
        p = builder(f"p{number}", form="calls")
        p.write([Text("head", 90), Text(f"own {number}", 10)], 2)
        programs.append(Arrival(0.0, p.build()))
    found = report(simulation.run(programs))
    assert found.computed_tokens == 200
    assert found.recomputed_tokens == 90
    assert found.hit_rate == 0.0
    assert found.imbalance == pytest.approx(1.0)
    assert (found.failed, found.latency["all"].runs) == (0, 2)
    assert LLM.spec.capacity == LLM.max_running


def test_chats_and_bulk_jobs_on_the_same_workers_hardly_slow_each_other() -> None:
    """Chats and map-reduce on four workers, against each alone (Parrot, OSDI'24, section 8.5)."""

    def measure(mix: dict[str, float]) -> tuple[dict[str, float], float]:
        simulation = Simulation(Scheduler(), keep_calls=True)
        for number in range(4):
            simulation.join(partial(SimWorker, f"w{number}", llms=[LLAMA_8B_H200]))
        outcome = simulation.run(arrivals(Mix(mix), 30.0, 1, LLAMA_8B_H200.costs, "graph"))
        assert not any(run.fault for run in outcome.runs)
        tokens = [
            (call.finished - call.first_token) / (call.written - 1)
            for call in outcome.calls
            if call.program == "chat" and call.written > 1
        ]
        jobs = {name: each.mean for name, each in report(outcome).latency.items()}
        return jobs, fmean(tokens) if tokens else 0.0

    mixed, chatting = measure({"chat": 4.0, "map_reduce": 1.0})
    _, alone = measure({"chat": 4.0})
    bulk, _ = measure({"map_reduce": 1.0})
    assert chatting <= 1.15 * alone
    assert mixed["map_reduce"] <= 1.1 * bulk["map_reduce"]


def test_runs_that_are_over_leave_nothing_to_the_collector() -> None:
    """What nobody needs is freed at once: the scheduler's time holds no rounds of the garbage collector's."""
    gc.collect()
    gc.disable()
    try:
        simulation = world(2, llm=small(60_000))
        victim = simulation.start(one("coding", random.Random(1), COSTS, "graph", "victim"))
        simulation.clock.at(3.0, lambda: simulation.cancel(victim))
        mix = Mix({"rag": 0.5, "chat": 0.3, "map_reduce": 0.1})
        assert len(simulation.run(arrivals(mix, 20, 3, COSTS, "graph")).runs) > 5
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = Counter(type(each).__qualname__ for each in gc.garbage if type(each).__module__[:5] == "weft.")
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert left == {}
