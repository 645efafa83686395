"""What Parrot and Teola promise of placement and sharing, on the virtual clock, with an H200's profile."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import pytest

from weft.runtime.scheduler.policies import Policies
from weft.runtime.simulator.builder import Builder, Text
from weft.runtime.simulator.profiles import LLAMA_8B_H200
from weft.runtime.simulator.programs import Arrival, Program
from weft.runtime.simulator.report import Report, pooled, report
from weft.runtime.simulator.simulation import Outcome
from weft.runtime.simulator.workloads import Mix, arrivals

from .conftest import world

COSTS = LLAMA_8B_H200.costs


def call(number: int, head: Text, own: int = 100, writes: int = 50) -> Program:
    builder = Builder("call", COSTS, "graph", f"call {number}")
    builder.write([head, builder.input("own", own)], writes)
    return builder.build()


def mixed(rates: Mapping[str, float], seconds: float = 20.0) -> Outcome:
    """Programs of four workers from three seeds."""

    def one(seed: int) -> Outcome:
        simulation = world(4, llm=LLAMA_8B_H200, keep_calls=True)
        return simulation.run(arrivals(Mix(rates), seconds, seed, COSTS, "graph"))

    return pooled([one(seed) for seed in (1, 2, 3)])


def token_seconds(outcome: Outcome, program: str) -> float:
    """From one token that is written to the next, in the mean."""
    calls = [call for call in outcome.calls if call.program == program and call.written > 1]
    return sum(c.finished - c.first_token for c in calls) / sum(c.written - 1 for c in calls)


def test_a_shared_prompt_is_computed_once_for_each_worker() -> None:
    simulation = world(4, llm=LLAMA_8B_H200, keep_calls=True)
    head = Text("system prompt", 6000)
    found = report(simulation.run(Arrival(0.05 * n, call(n, head)) for n in range(64)))
    assert found.computed_tokens <= 4 * 6000 + 64 * 101
    assert found.failed == 0


@pytest.mark.parametrize("placement", ["affinity", "least_loaded"])
def test_families_of_prompts_are_read_about_once_and_a_skewed_mix_is_still_spread(placement: str) -> None:
    simulation = world(4, llm=LLAMA_8B_H200, policies=Policies(placement=placement), keep_calls=True)
    rng = random.Random(5)
    heads = [Text(f"family {n}", 2000) for n in range(4)]
    programs = [
        Arrival(0.04 * n, call(n, rng.choices(heads, (8, 4, 2, 1))[0], writes=100)) for n in range(800)
    ]
    found = report(simulation.run(programs))
    distinct = 4 * 2000 + 800 * 100
    if placement == "affinity":
        assert found.computed_tokens <= 1.15 * distinct
        assert found.imbalance <= 1.5
    else:
        assert found.computed_tokens > 1.2 * distinct


def families(rate: float, placement: str, weights: Sequence[int]) -> tuple[Report, float]:
    """Four prompts of 6,000 tokens that do not fit into one worker; the greatest load by the least."""
    simulation = world(4, llm=replace(LLAMA_8B_H200, kv_slots=20_000), policies=Policies(placement=placement))
    rng = random.Random(7)
    heads = [Text(f"family {n}", 6000) for n in range(4)]
    time, programs = 0.0, list[Arrival]()
    while (time := time + rng.expovariate(rate)) < 10.0:
        number = len(programs)
        programs.append(Arrival(time, call(number, rng.choices(heads, weights)[0], writes=100)))
    outcome = simulation.run(programs)
    return report(outcome), max(outcome.loads.values()) / min(outcome.loads.values())


@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (8, 4, 2, 1)])
def test_families_in_too_little_memory_come_twice_as_often_if_each_has_its_place(
    weights: tuple[int, ...],
) -> None:
    (alone,) = world(llm=LLAMA_8B_H200).run([Arrival(0.0, call(0, Text("family", 6000), writes=100))]).runs
    found, skew = families(100.0, "affinity", weights)
    without, _ = families(50.0, "least_loaded", weights)
    bearable = 3 * alone.seconds
    assert found.latency["all"].p95 <= bearable
    assert without.latency["all"].p95 > bearable
    assert skew <= 1.5


def test_what_an_architect_writes_is_read_by_coders_and_reviewers_where_it_is() -> None:
    builder = Builder("coding", COSTS, "graph", "one")
    api = builder.write([Text("architect", 700)], 1500)
    for number in range(8):
        code = builder.write([Text("coder", 500), api, Text(f"file {number}", 60)], 600)
        builder.write([Text("reviewer", 400), api, code], 150)
    simulation = world(1, llm=LLAMA_8B_H200)
    outcome = simulation.run([Arrival(0.0, builder.build())])
    assert outcome.computed_tokens <= 700 + (500 + 1500) + 8 * 60 + (400 + 1500) + 8 * 600 + 20


def team(number: int) -> Program:
    """An architect, eight coders of what it has written, and a reviewer of each."""
    builder = Builder("team", COSTS, "graph", f"team {number}")
    task = builder.input("task", 1000 + 100 * (number % 10))
    api = builder.write([Text("architect", 3000), task], 768)
    for file in range(8):
        name = Text(f"file {file}", 6)
        code = builder.write([Text("coder", 3000), task, api, name], 384)
        builder.write([Text("reviewer", 3000), task, api, name, code], 128)
    return builder.build()


def test_a_team_that_begins_alike_works_where_its_beginning_is_and_teams_are_spread() -> None:
    """On workers with too little KV for all it is hardly worse than if each stayed on its worker."""

    def served(policies: Policies) -> tuple[float, float]:
        simulation = world(2, llm=replace(LLAMA_8B_H200, kv_slots=100_000), policies=policies)
        rng, time, arriving = random.Random(3), 0.0, list[Arrival]()
        while (time := time + rng.expovariate(3.8)) < 12.0:
            arriving.append(Arrival(time, team(len(arriving))))
        outcome = simulation.run(arriving)
        return report(outcome).latency["all"].mean, outcome.computed_tokens

    seconds, computed = served(Policies(transfer="never"))
    sticky_seconds, sticky_computed = served(Policies(placement="sticky", transfer="never"))
    assert seconds <= 1.03 * sticky_seconds
    assert computed <= 1.02 * sticky_computed


def test_chats_and_bulk_work_on_the_same_workers_hardly_hurt_each_other() -> None:
    chats, bulk = mixed({"chat": 4.0}), mixed({"map_reduce": 1.0})
    both = mixed({"chat": 4.0, "map_reduce": 1.0})
    assert token_seconds(both, "chat") <= 1.15 * token_seconds(chats, "chat")
    assert report(both).latency["map_reduce"].mean <= 1.1 * report(bulk).latency["map_reduce"].mean


def test_bulk_work_that_makes_way_is_not_crowded_where_nobody_waits() -> None:
    """Its slowest jobs end hardly later than where every run stays on its worker, whoever else is there."""

    def slowest(policies: Policies) -> float:
        llm = replace(LLAMA_8B_H200, kv_slots=100_000)
        outcomes = []
        for seed in range(1, 13):
            simulation = world(4, llm=llm, policies=policies)
            mix = Mix({"chat": 6.0, "map_reduce": 4.0})
            outcomes.append(simulation.run(arrivals(mix, 20.0, seed, COSTS, "graph")))
        return report(pooled(outcomes)).latency["map_reduce"].p95

    sticky = Policies("fifo", "arrival", "none", "sticky", advice="none")
    assert slowest(Policies()) <= 1.02 * slowest(sticky)


def test_the_maps_of_a_reduction_are_computed_together() -> None:
    def seconds(at_once: int) -> float:
        builder = Builder("map-reduce", COSTS, "graph", "one")
        parts = [builder.write([Text(f"chunk {number}", 1000)], 100) for number in range(16)]
        builder.write([Text("reduce", 50), *parts], 200)
        simulation = world(llm=replace(LLAMA_8B_H200, max_running=at_once))
        (run,) = simulation.run([Arrival(0.0, builder.build())]).runs
        return run.seconds

    assert seconds(256) <= 0.5 * seconds(2)


def test_a_worker_that_is_lost_while_it_writes_costs_others_nothing() -> None:
    def pair(*, lose: bool) -> list[float]:
        simulation = world(2, llm=LLAMA_8B_H200)
        if lose:
            simulation.clock.at(0.5, partial(simulation.lose, "w0"))
        outcome = simulation.run(
            Arrival(0.01 * n, call(n, Text(f"head {n}", 500), writes=400)) for n in range(2)
        )
        assert [run.fault for run in outcome.runs] == ["", ""]
        return [run.seconds for run in outcome.runs]

    first, second = pair(lose=False)
    again, untouched = pair(lose=True)
    assert again > first + 0.3, "what had been written is written again elsewhere"
    assert untouched == pytest.approx(second, rel=0.15)
