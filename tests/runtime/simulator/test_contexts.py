"""Contexts that fork and are freed, on the virtual clock: what is used stays, what is freed can be had."""

from __future__ import annotations

import random
from collections import Counter
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.graph.ir import Value
from weft.runtime.scheduler import actions as act
from weft.runtime.scheduler import events as ev
from weft.runtime.scheduler.scheduler import Scheduler
from weft.runtime.simulator.builder import Text
from weft.runtime.simulator.cache import CacheModel
from weft.runtime.simulator.programs import Arrival, Program
from weft.runtime.simulator.simulation import Delays, Simulation
from weft.runtime.simulator.workloads import Mix, arrivals

from .conftest import COSTS, builder, path, small, worker


class Watched(Scheduler):
    """Remembers when it had which contexts released."""

    def __init__(self) -> None:
        super().__init__()
        self.released: list[tuple[str, str, int, float]] = []  # worker, run, node, seconds

    def handle(self, *events: ev.Event, now: float) -> list[act.Action]:
        actions = super().handle(*events, now=now)
        for action in actions:
            if isinstance(action, act.Release):
                self.released += [(action.worker, action.run, v.node, now) for v in action.values]
        return actions


def watched(workers: int, kv_slots: int) -> tuple[Watched, Simulation]:
    scheduler = Watched()
    simulation = Simulation(scheduler, Delays(0.001), keep_calls=True)
    for number in range(workers):
        simulation.join(worker(f"w{number}", small(kv_slots)))
    return scheduler, simulation


def forked(name: str = "p") -> Program:
    """A context of 200 tokens and two children, of which a tool keeps the second waiting for five seconds."""
    p = builder(name)
    head = Text(f"{name} head", 200)
    p.write([head, p.input("first", 10)], 40)
    p.write([head, p.tool("t", 5000.0, tokens=20)], 40)
    return p.build()


def crowd(count: int, tokens: int, seconds: float) -> list[Arrival]:
    """Calls that have nothing in common."""
    programs = []
    for number in range(count):
        p = builder(f"crowd {number}")
        p.write([Text(f"crowd {number}", tokens)], 20)
        programs.append(Arrival(0.5 + seconds * number, p.build()))
    return programs


@pytest.mark.parametrize("others", [0, 8])
def test_a_context_forks_and_is_freed_when_its_last_child_has_read_on(others: int) -> None:
    """The second child reads the parent's tokens again only if others took their place meanwhile."""
    scheduler, simulation = watched(1, 600)
    outcome = simulation.run([Arrival(0.0, forked()), *crowd(others, 400, 0.8)])
    assert not any(run.fault for run in outcome.runs)
    first, second = (call for call in outcome.calls if call.program == "p" and call.written)
    assert (first.written, second.written) == (40, 40)
    assert (second.cached, second.computed) == ((0, 220) if others else (200, 20))
    (freed,) = [seconds for _, run, node, seconds in scheduler.released if (run, node) == ("r1", 0)]
    assert freed > first.finished
    assert freed >= 5.0


def test_who_reads_on_from_a_context_holds_it_whatever_becomes_of_its_maker() -> None:
    cache = CacheModel(100)
    parent, children = path(("head", 40)), [path(("head", 40), (name, 10)) for name in "ab"]
    cache.insert(parent, 0.0)
    held = cache.lock(parent)
    locks = []
    for child in children:
        cache.insert(child, 1.0)
        locks.append(cache.lock(child))
    cache.unlock(held)
    cache.make_room(100)
    assert [cache.match(child, 2.0) for child in children] == [50, 50]
    cache.unlock(locks[0])
    cache.make_room(100)
    assert [cache.match(child, 3.0) for child in children] == [40, 50]
    cache.unlock(locks[1])
    cache.make_room(100)
    assert (cache.free, cache.locked, cache.running) == (100, 0, 0)


def test_what_is_freed_twice_is_refused() -> None:
    cache = CacheModel(100)
    cache.insert(path(("head", 40)), 0.0)
    held = cache.lock(path(("head", 40)))
    cache.unlock(held)
    with pytest.raises(ValueError, match="not locked"):
        cache.unlock(held)
    cache.make_room(100)
    with pytest.raises(ValueError, match="not locked"):
        cache.unlock(held)
    assert cache.free == 100


@pytest.mark.parametrize("mistake", ["twice", "early"])
def test_a_scheduler_that_frees_contexts_twice_or_too_early_is_found_out(mistake: str) -> None:
    class Careless(Scheduler):
        def handle(self, *events: ev.Event, now: float) -> list[act.Action]:
            actions = super().handle(*events, now=now)
            if mistake == "twice":
                return [*actions, *(a for a in actions if isinstance(a, act.Release) and a.values)]
            done = [e for e in events if isinstance(e, ev.TaskDone) and e.node == 0]
            return [*actions, *(act.Release("w0", e.run, (Value(0),)) for e in done)]

    simulation = Simulation(Careless(), Delays(0.001))
    simulation.join(worker("w0"))
    with pytest.raises((ValueError, KeyError)):
        simulation.run([Arrival(0.0, forked())])


def test_under_pressure_of_memory_what_lies_idle_makes_way_and_nobody_fails() -> None:
    _, simulation = watched(1, 1200)
    outcome = simulation.run(crowd(40, 500, 0.8))
    assert [run.fault for run in outcome.runs] == [""] * 40
    assert outcome.retractions == 0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32))
def test_every_context_is_freed_once_after_its_last_use_and_in_the_end_nothing_is_in_use(seed: int) -> None:
    """Programs that fork, in little memory; a run is cancelled, a worker lost. Workers refuse mistakes."""
    rng = random.Random(seed)
    scheduler, simulation = watched(2, 40_000)
    mix = Mix({"coding": 0.2, "rag": 0.3, "debate": 0.2})
    simulation.clock.at(rng.uniform(0, 20), partial(simulation.cancel, "r1"))
    simulation.clock.at(rng.uniform(0, 60), partial(simulation.lose, "w1"))
    outcome = simulation.run(arrivals(mix, 8.0, seed, COSTS, "graph"))
    assert len(outcome.runs) == len(simulation._stats)
    counts = Counter((name, run, node) for name, run, node, _ in scheduler.released)
    assert set(counts.values()) <= {1}
    for each in scheduler._dispatcher.workers.values():
        assert not each.tasks
        assert all((engine.kv, engine.in_use) == (0, {}) for engine in each.engines)
    for simulated in simulation._workers.values():
        for model in simulated.llms.values():
            cache = model.cache
            assert (cache.running, cache.locked) == pytest.approx((0, 0), abs=1e-6)
            cache.make_room(cache.total)
            assert cache.free == pytest.approx(cache.total)
