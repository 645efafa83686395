"""Nodes that nobody needs any more, and nodes that somebody needs again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from weft.graph.analyses.forecast import Forecast
from weft.graph.ir import Policy, Value
from weft.graph.ops.common import Format, Interrupt, Tool
from weft.graph.ops.control import Map
from weft.runtime.scheduler import actions as act
from weft.runtime.scheduler import events as ev
from weft.runtime.scheduler.faults import Fault
from weft.runtime.scheduler.primitive import describe
from weft.runtime.scheduler.state import DONE, SHELVED

from .conftest import DECODE, EMBED, EMBEDDER, LLM, PREFILL, Driver, node, placed, sent, tool
from .test_admission import SMALL, turn
from .test_scheduler_properties import Chaos
from .world import BODY


def shelve(driver: Driver, *nodes: int, run: str = "r") -> list[act.Action]:
    return driver.send(ev.NodesShelved(run, nodes))


def take_up(driver: Driver, *nodes: int, run: str = "r") -> list[act.Action]:
    return driver.send(ev.NodesTakenUp(run, nodes))


def failed(actions: list[act.Action]) -> list[tuple[int, str]]:
    """The nodes that have failed for good, and why."""
    return [(action.node, action.fault.code) for action in actions if isinstance(action, act.NodeFailed)]


def test_what_runs_is_stopped_and_begins_anew_when_it_is_needed_again() -> None:
    driver = Driver(("w", LLM))
    driver.run(node(0, PREFILL), node(1, DECODE, kv=0), grows=True)
    driver.done(0)
    assert shelve(driver, 1) == [act.CancelTasks("w", "r", (1,))]
    assert driver.scheduler.in_flight() == {"w": 0}
    assert driver.done(1) == [], "its result was on the way"
    assert shelve(driver, 1) == []
    assert take_up(driver, 1) == [sent("w", 1, attempt=2)]
    assert take_up(driver, 1) == []


def test_the_rest_of_the_run_goes_on() -> None:
    driver = Driver(("w", LLM))
    driver.run(
        *(node(n, PREFILL) for n in range(2)), node(2, DECODE, kv=0), node(3, DECODE, kv=1), grows=True
    )
    shelve(driver, 0, 2)
    assert driver.done(0) == driver.done(2) == []
    driver.done(1)
    assert driver.done(3) == []
    assert driver.add(node(4, PREFILL, kv=3)) == [sent("w", 4)]


def test_what_waits_or_queues_does_not_begin_before_it_is_needed_again() -> None:
    driver = Driver(("e", replace(EMBEDDER, capacity=1)))
    driver.run(node(0, EMBED), node(1, EMBED), node(2, EMBED, x=0, y=1), node(3, EMBED), grows=True)
    assert shelve(driver, 1, 2) == []
    assert driver.done(0) == [sent("e", 3)]
    assert driver.done(3) == []
    assert take_up(driver, 1, 2) == [sent("e", 1, 2)]


def test_what_is_tried_again_later_is_not() -> None:
    driver = Driver(("e", EMBEDDER))
    driver.run(node(0, EMBED, Policy(timeout_s=1.0, attempts=3, backoff_s=1.0)), grows=True)
    driver.tick(101.0)
    assert shelve(driver, 0) == []
    assert driver.tick(102.0) == []
    assert placed(take_up(driver, 0)) == [("e", "r", 0)]


def test_what_becomes_known_meanwhile_is_known() -> None:
    driver = Driver(("e", EMBEDDER))
    driver.run(node(0, EMBED), node(1, Format(()), x=0), node(2, Format(()), x=1), grows=True)
    shelve(driver, 0, 1)
    assert driver.send(ev.ValuesKnown("r", {})) == []
    known = describe((node(3, Format(()), x=0),))
    assert driver.send(ev.NodesAdded("r", known, {Value(0): None})) == [act.Evaluate("r", 3, 1)]
    assert take_up(driver, 0, 1) == [act.Evaluate("r", 1, 1)]


def test_a_question_is_asked_again_and_a_map_that_has_begun_waits_for_its_bodies() -> None:
    driver = Driver(("e", EMBEDDER))
    driver.run(node(0, EMBED), node(1, Interrupt(), x=0), node(2, Map(BODY), x=0), grows=True)
    assert driver.done(0) == [act.AskClient("r", 1, 1), act.Expand("r", 2, 1)]
    assert driver.add(node(3, EMBED)) == [sent("e", 3)]
    assert shelve(driver, 1, 2, 3) == [act.CancelTasks("e", "r", (3,))]
    assert take_up(driver, 1, 2, 3) == [act.AskClient("r", 1, 2), sent("e", 3, attempt=2)]


@pytest.mark.parametrize(
    ("events", "first"),
    [((), "s"), ((ev.NodesShelved,), "r"), ((ev.NodesShelved, ev.NodesTakenUp), "s")],
)
def test_a_run_has_less_to_do_without_what_nobody_needs(
    events: Iterable[Callable[..., ev.Event]], first: str
) -> None:
    driver = Driver(("e", replace(EMBEDDER, capacity=1)))
    driver.run(node(0, EMBED), run="before")
    work = {n: Forecast(ms, ms) for n, ms in enumerate((0.0, 10.0, 500.0))}
    driver.run(tool(0, where="client"), node(1, EMBED, x=0), node(2, EMBED, x=0), grows=True, forecasts=work)
    for event in events:
        driver.send(event("r", (2,)))
    driver.send(ev.NodesAdded("r", (), revised={2: Forecast(400.0, 400.0)}))
    driver.done(0)
    driver.run(node(0, EMBED), run="s", forecasts={0: Forecast(100.0, 100.0)})
    assert placed(driver.done(0, run="before"))[0][1] == first


def test_whoever_waits_for_room_has_that_of_what_nobody_needs() -> None:
    driver = Driver(("w", SMALL))
    assert [len(turn(driver, run)) for run in "abc"] == [2, 2, 0]
    assert placed(shelve(driver, 0, 1, run="a")) == [("w", "c", 0), ("w", "c", 1)]


def test_a_run_needs_no_room_for_what_nobody_needs() -> None:
    driver = Driver(("w", SMALL))
    assert len(turn(driver, "s")) == 2  # takes 400 tokens of 950
    work = {n: Forecast(40.0, 340.0, reads=300.0) for n in (1, 2)}
    driver.run(tool(0, where="client"), *(node(n, PREFILL, x=0) for n in (1, 2)), grows=True, forecasts=work)
    shelve(driver, 2)
    assert placed(driver.done(0)) == [("w", "r", 1)]


def test_what_has_failed_for_good_in_a_growing_run_is_shelved_and_the_run_goes_on() -> None:
    driver = Driver(("w", ev.EngineSpec("tool", "t")), ("e", EMBEDDER))
    twice = Policy(timeout_s=2.0, attempts=2, backoff_s=1.0)
    driver.run(tool(0, twice, where="client"), tool(1), node(2, EMBED, x=0), grows=True)
    broke = Fault("tool_failed", "broke")
    assert failed(driver.failed(0, broke)) == [], "it is tried again"
    assert driver.tick(101.0)[0] == act.AskClient("r", 0, 2)
    assert failed(driver.tick(103.0)) == [(0, "timeout")]
    assert failed(driver.send(ev.WorkerLost("w", "killed"))) == [(1, "worker_lost")]
    assert driver.failed(0, broke, attempt=2) == []
    assert placed(driver.add(node(3, EMBED))) == [("e", "r", 3)]
    assert driver.send(ev.RunEnded("r")) == [act.CancelTasks("e", "r"), act.Release("e", "r")]


class Wavering(Chaos):
    """Besides, runs come to need less, and what they did not need again."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.shelved: dict[str, set[int]] = {}
        self.world.lacking = self.do_without

    def step(self) -> None:
        """Something happens, or is given up, or wanted again."""
        self.choose.choices((super().step, self.shelve, self.take_up), (4, 1, 1))[0]()
        for name, number in self.world.outstanding:
            assert number not in self.shelved.get(name, ()), "nobody needs it"
        for run in self.world.scheduler._runs.values():
            left = [live for live in run.nodes.values() if live.phase is not DONE]
            assert run.work_ms == pytest.approx(sum(live.work_ms for live in left), abs=1e-6)
            for live in left:
                books = (live.work_ms, live.claim, live.turn)
                assert live.phase is not SHELVED or books == (0.0, None, False)

    def alive(self) -> list[str]:
        return [name for name, run in self.world.runs.items() if not run.over]

    def shelve(self) -> None:
        """Something, with all that takes it, unless it holds what has begun and cannot be called back."""
        if not self.alive():
            return
        run = self.choose.choice(self.alive())
        self.give_up(run, {self.choose.choice(sorted(self.world.runs[run].nodes.keys() - {0}))})

    def do_without(self, run: str) -> None:
        """Nobody needs what has failed for good, if that can be."""
        lacks = self.world.runs[run].lacks
        if not lacks <= self.shelved.get(run, set()) and not self.give_up(run, set(lacks)):
            self.world.end(run)

    def give_up(self, run: str, given_up: set[int]) -> bool:
        live, known = self.world.runs[run], 0
        while known < len(given_up):
            known = len(given_up)
            taken = {Value(number, output) for number in given_up for output in (0, 1)}
            given_up |= {n.id for n in live.nodes.values() if not taken.isdisjoint(n.args.values())}
        outstanding = {n: where for (r, n), (_, where) in self.world.outstanding.items() if r == run}
        begun = {n for n, where in outstanding.items() if not where or isinstance(live.nodes[n].op, Tool)}
        if not given_up.isdisjoint(begun):
            return False
        self.shelved.setdefault(run, set()).update(given_up)
        self.world.send(ev.NodesShelved(run, tuple(sorted(given_up))))
        return True

    def take_up(self) -> None:
        """Something that was given up, with all that it takes."""
        runs = [run for run in self.alive() if self.shelved.get(run)]
        if runs:
            run = self.choose.choice(runs)
            self.need(run, {self.choose.choice(sorted(self.shelved[run]))})

    def grow(self) -> None:
        """What takes something that was given up needs it."""
        super().grow()
        for run in self.alive():
            shelved, nodes = self.shelved.get(run, set()), self.world.runs[run].nodes
            taken = {v.node for n in nodes.values() if n.id not in shelved for v in n.args.values()}
            self.need(run, taken & shelved)

    def need(self, run: str, wanted: set[int]) -> None:
        shelved, nodes, left = self.shelved.get(run, set()), self.world.runs[run].nodes, list(wanted)
        needed: set[int] = set()
        while left:
            number = left.pop()
            if number in shelved and number not in needed:
                needed.add(number)
                left += (value.node for value in nodes[number].args.values())
        if needed & self.world.runs[run].lacks:
            self.world.end(run)
        elif needed:
            shelved -= needed
            self.world.send(ev.NodesTakenUp(run, tuple(sorted(needed))))

    def settle(self) -> None:
        """Once all is needed, every run ends."""
        for run in self.alive():
            self.need(run, set(self.shelved.get(run, ())))
        super().settle()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32))
def test_any_history(seed: int) -> None:
    Wavering(seed).play(80)
