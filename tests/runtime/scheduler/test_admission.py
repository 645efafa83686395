"""Who may use a language model: of agents as many as fit, in which order, and how long tools may take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from weft.graph.analyses.forecast import Forecast
from weft.graph.costs import DecodePoint, ModelCosts, PrefillPoint
from weft.graph.ir import Node
from weft.graph.ops.common import Tool
from weft.graph.ops.primitive import Prefill
from weft.graph.prompt import Fixed
from weft.runtime.scheduler import actions as act
from weft.runtime.scheduler import events as ev
from weft.runtime.scheduler.patience import Patience

from .conftest import DECODE, EMBED, EMBEDDER, LLM, PREFILL, Driver, node, placed
from .test_placement import call
from .test_scheduler_properties import Chaos

COSTS = ModelCosts((PrefillPoint(0, 100, 40.0), PrefillPoint(0, 1000, 400.0)), (DecodePoint(1, 100, 5.0),))
SMALL = replace(LLM, kv_slots=1000, costs=COSTS)  # reads as much as it holds in 0.4 s
TURN = {0: Forecast(40.0, 340.0, reads=300.0), 1: Forecast(300.0, 300.0, writes=100.0)}


def turn(
    driver: Driver, run: str, *, reads: float = 300.0, grows: bool = True, **rest: Any
) -> list[tuple[str, str, int]]:
    """Start a run that needs 400 tokens, or others; what is handed out."""
    nodes = (node(0, Prefill("m", (Fixed(f"{run}" * 600),))), node(1, DECODE, kv=0))
    forecasts = {**TURN, 0: Forecast(40.0, 340.0, reads=reads)}
    return placed(driver.run(*nodes, run=run, grows=grows, forecasts=forecasts, **rest))


def say(driver: Driver, run: str, first: int = 0, attempt: int = 1) -> list[act.Action]:
    """The run's two primitives are done."""
    actions = driver.done(first, attempt, run=run, usage=ev.Usage(0, 300))
    return actions + driver.done(first + 1, attempt, run=run, usage=ev.Usage(300, 0, 100))


def end(driver: Driver, run: str) -> list[tuple[str, str, int]]:
    """The run is over; what is handed out from its last turn on."""
    return placed(say(driver, run) + driver.send(ev.RunEnded(run)))


def ask(driver: Driver, run: str) -> None:
    """The run calls a tool of its client."""
    driver.add(node(2, Tool("t"), x=(1, 1)), run=run)


def go_on(driver: Driver, run: str) -> list[act.Action]:
    """The tool has answered, and the run's next turn continues its context."""
    actions = driver.done(2, run=run)
    nodes: tuple[Node, ...] = (node(3, Prefill("m", (Fixed("a"),)), kv=1), node(4, DECODE, kv=3))
    forecasts = {3: Forecast(1.0, 101.0, reads=50.0), 4: Forecast(100.0, 100.0, writes=50.0)}
    return actions + driver.add(*nodes, run=run, forecasts=forecasts)


def held(driver: Driver) -> int:
    """How many primitives are kept back."""
    return sum(backlog.held for backlog in driver.scheduler.backlogs())


def test_agents_whose_contexts_do_not_fit_wait_until_others_are_over() -> None:
    driver = Driver(("w", SMALL))
    assert [len(turn(driver, run)) for run in "abcd"] == [2, 2, 0, 0]
    assert end(driver, "b") == [("w", "c", 0), ("w", "c", 1)]
    assert end(driver, "a") == [("w", "d", 0), ("w", "d", 1)]


def test_what_is_kept_back_can_be_told_from_what_is_queued() -> None:
    driver = Driver(("w", replace(SMALL, capacity=1)), ("e", replace(EMBEDDER, capacity=1)))
    for run in "abcd":
        turn(driver, run)
    for run in "xyz":
        driver.run(node(0, EMBED), run=run)
    backlogs = {backlog.key.kind: backlog for backlog in driver.scheduler.backlogs()}
    assert (backlogs["llm"].queued, backlogs["llm"].held) == (1, 2)
    assert (backlogs["embed"].queued, backlogs["embed"].held) == (2, 0)
    assert driver.scheduler.in_flight() == {"w": 2, "e": 1}
    end(driver, "a")
    assert {key.kind: (queued, held) for key, queued, held in driver.scheduler.backlogs()}["llm"] == (1, 1)


def test_a_beginning_that_many_share_takes_its_place_once() -> None:
    driver = Driver(("w", replace(LLM, kv_slots=4000)))
    family = " ".join(f"word{number}" for number in range(1000))  # 2,250 tokens or so

    def handed_out(run: str, text: str) -> int:
        nodes, forecasts = call(text, f"tail of {run}")
        count = len(placed(driver.run(*nodes, run=run, grows=True, forecasts=forecasts)))
        driver.done(0, run=run)
        driver.send(ev.PromptRead(run, 1, 1))
        return count

    assert [handed_out(run, family) for run in "abc"] == [2, 2, 2]
    assert handed_out("other", family[::-1]) == 0


def test_nobody_waits_whose_graph_is_known_or_where_nothing_else_is_asked_for_or_known() -> None:
    driver = Driver(("w", SMALL), admission="everybody")
    assert [len(turn(driver, run)) for run in "abcd"] == [2, 2, 2, 2]
    driver = Driver(("w", LLM))
    assert [len(turn(driver, run)) for run in "abcd"] == [2, 2, 2, 2]
    driver = Driver(("w", SMALL))
    assert [len(turn(driver, run, grows=False)) for run in "abcd"] == [2, 2, 2, 2]


def test_whatever_others_have_agents_may_take_half() -> None:
    driver = Driver(("w", SMALL))
    for run in "xyz":
        turn(driver, run, grows=False)
    for run, kept in zip("abc", (0, 0, 1), strict=True):
        turn(driver, run, reads=100.0)
        assert held(driver) == kept, "they take 250 tokens each"
    end(driver, "x")
    assert held(driver) == 1, "1,000 are taken by y, z, a and b"
    end(driver, "y")
    assert held(driver) == 0


def test_a_run_that_needs_more_than_there_is_has_the_model_to_itself() -> None:
    driver = Driver(("w", SMALL))
    assert len(turn(driver, "large", reads=3000.0)) == 2
    assert not turn(driver, "a")
    assert not turn(driver, "larger", reads=3100.0)
    assert end(driver, "large") == [("w", "a", 0), ("w", "a", 1)]
    assert end(driver, "a") == [("w", "larger", 0), ("w", "larger", 1)]


# ---- the order


@pytest.mark.parametrize("first", [{"priority": 1}, {"deadline": 100.5}])
def test_who_is_held_back_is_let_in_in_the_order_of_the_priority_policy(first: Mapping[str, Any]) -> None:
    driver = Driver(("w", SMALL))
    for run in "abc":
        turn(driver, run)
    driver.now += 1.0
    turn(driver, "d", **first)
    assert held(driver) == 2
    assert end(driver, "a") == [("w", "d", 0), ("w", "d", 1)]
    assert end(driver, "b") == [("w", "c", 0), ("w", "c", 1)]


def test_a_tenant_with_many_agents_keeps_nobody_out() -> None:
    driver = Driver(("w", SMALL))
    for run in "abcd":
        turn(driver, run, namespace="many")
    turn(driver, "o", namespace="few")
    assert end(driver, "a") == [("w", "o", 0), ("w", "o", 1)]
    assert end(driver, "b") == [("w", "c", 0), ("w", "c", 1)]


def test_tenants_who_come_to_have_room_together_take_turns() -> None:
    driver = Driver(("w", SMALL))
    turn(driver, "large", reads=800.0, namespace="third")
    for run in "abc":
        turn(driver, run, namespace="many")
    turn(driver, "o", namespace="few")
    assert held(driver) == 4
    assert [run for _, run, node in end(driver, "large") if not node] == ["a", "o"]


def test_who_has_waited_for_long_is_let_in_whatever_comes() -> None:
    driver = Driver(("w", SMALL), longest_wait_s=5.0)
    for run in "abc":
        turn(driver, run)
    driver.now += 6.0
    turn(driver, "urgent", priority=9)
    assert end(driver, "a") == [("w", "c", 0), ("w", "c", 1)]
    assert end(driver, "b") == [("w", "urgent", 0), ("w", "urgent", 1)]


# ---- places


def test_a_run_keeps_its_place_over_a_tool_call() -> None:
    driver = Driver(("w", SMALL))
    for run in "ab":
        turn(driver, run)
    say(driver, "a")
    ask(driver, "a")
    assert not turn(driver, "c")
    driver.now += 0.3
    assert len(placed(go_on(driver, "a"))) == 2, "back in time"


def test_a_run_whose_tool_takes_longer_than_reading_again_loses_its_place_and_gets_another() -> None:
    driver = Driver(("w", SMALL))
    for run in "ab":
        turn(driver, run)
    say(driver, "a")
    ask(driver, "a")
    began = driver.now
    driver.send(ev.RunStarted("c", grows=True))
    nodes = (node(0, Prefill("m", (Fixed("c" * 600),))), node(1, DECODE, kv=0))
    (wake,) = driver.add(*nodes, run="c", forecasts=TURN)
    assert isinstance(wake, act.WakeAt)
    assert wake.time == pytest.approx(began + 0.4, abs=0.001)
    assert placed(driver.tick(wake.time)) == [("w", "c", 0), ("w", "c", 1)]
    assert not placed(go_on(driver, "a")), "a tool has answered, but its run must wait for a place"
    assert end(driver, "c") == [("w", "a", 3), ("w", "a", 4)]


def test_for_a_tool_that_mostly_takes_longer_no_place_is_kept() -> None:
    driver = Driver(("w", SMALL))
    for _ in range(8):
        driver.scheduler._residency.patience.note("t", 10.0)
    for run in "abc":
        turn(driver, run)
    ask(driver, "a")
    assert placed(say(driver, "a")) == [("w", "c", 0), ("w", "c", 1)]


def test_nobody_in_a_turn_is_held_back_and_engines_of_other_kinds_go_on() -> None:
    driver = Driver(("w", SMALL), ("e", EMBEDDER))
    for run in "ab":
        turn(driver, run)
    driver.done(0, run="a", usage=ev.Usage(0, 300))
    long = {5: Forecast(90.0, 90.0, reads=900.0)}
    actions = driver.add(node(5, Prefill("m", (Fixed("z" * 9),)), kv=0), run="a", forecasts=long)
    assert placed(actions) == [("w", "a", 5)]
    assert not turn(driver, "c")
    assert placed(driver.add(node(7, EMBED), run="c")) == [("e", "c", 7)]


@pytest.mark.parametrize("event", [ev.RunEnded("b"), ev.NodesShelved("b", (0, 1))])
def test_who_was_let_in_and_goes_before_an_engine_had_room_leaves_his_place(event: ev.Event) -> None:
    driver = Driver(("w", replace(SMALL, capacity=1)))
    assert [len(turn(driver, run)) for run in "abc"] == [2, 0, 0]
    assert held(driver) == 1, "c; b has a place, and is queued"
    driver.send(event)
    assert held(driver) == 0


def test_who_is_held_back_can_be_cancelled_and_fails_when_the_last_worker_is_lost_for_good() -> None:
    driver = Driver(("w", SMALL))
    for run in "abcd":
        turn(driver, run)
    driver.send(ev.RunEnded("c"))
    assert end(driver, "a") == [("w", "d", 0), ("w", "d", 1)]
    assert not turn(driver, "e")
    driver.send(ev.WorkerLost("w", "killed"))
    failed = {a.run for a in driver.tick(driver.now + 4.0) if isinstance(a, act.NodeFailed)}
    assert failed == {"b", "d", "e"}


def test_who_is_held_back_while_there_is_no_worker_waits_for_one_and_is_not_let_in_with_all_others() -> None:
    driver = Driver()
    assert [len(turn(driver, run)) for run in "abc"] == [0, 0, 0]
    assert len(placed(driver.send(ev.WorkerJoined("w", (SMALL,))))) == 4, "a and b"
    driver = Driver()
    turn(driver, "a")
    (failed,) = [action for action in driver.tick(driver.now + 4.0) if isinstance(action, act.NodeFailed)]
    assert (failed.run, failed.fault.code) == ("a", "unavailable")


def test_whose_context_was_lost_with_its_worker_has_no_place_either() -> None:
    driver = Driver(("w", SMALL), ("v", SMALL))
    turn(driver, "a")
    say(driver, "a")
    ask(driver, "a")
    (engine,) = driver.scheduler._runs["a"].holdings
    driver.send(ev.WorkerLost(engine.worker.id, "killed"))
    assert [len(turn(driver, run)) for run in "bc"] == [2, 2]
    assert not placed(go_on(driver, "a"))
    assert {run for _, run, _ in end(driver, "b")} == {"a"}


def test_a_run_at_work_elsewhere_keeps_its_place_when_its_old_context_loses_that() -> None:
    driver = Driver(("w", SMALL), ("v", replace(SMALL, capacity=1)), placement="round_robin")
    turn(driver, "a")
    say(driver, "a")
    ask(driver, "a")
    run = driver.scheduler._runs["a"]
    (old,) = run.holdings
    assert placed(go_on(driver, "a"))[0][0] != old.worker.id
    driver.scheduler._residency.expire(run, old)
    turn(driver, "b", reads=3000.0)
    assert held(driver) == 1, "only b"
    assert placed(driver.add(node(5, PREFILL, kv=1), run="a"))


# ---- any history


class Crowded(Chaos):
    """Models hold so little that agents wait for one another."""

    kv_slots = 300

    def __init__(self, seed: int) -> None:
        super().__init__(seed, admission="growing")

    def step(self) -> None:
        """Something happens, after which nobody waits for a place where nobody has one."""
        super().step()
        dispatcher = self.world.scheduler._dispatcher
        for pool, gate in dispatcher._gates.items():
            assert not (gate.waiting() and len(pool)) or pool.grown + pool.promised > 0


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32))
def test_nobody_starves_in_any_history(seed: int) -> None:
    Crowded(seed).play(70)


# ---- patience


def test_patience_is_learned_tool_by_tool_from_nine_calls_of_ten() -> None:
    patience = Patience()
    assert patience.seconds("t") == 5.0
    for _ in range(90):
        patience.note("fast", 0.1)
    for number in range(100):
        patience.note("t", 1.0 if number < 85 else 60.0)
    assert patience.seconds("fast") == pytest.approx(0.1, rel=0.1)
    assert patience.seconds("t") == pytest.approx(60.0, rel=0.1), "15 of 100 calls take so long"
    assert patience.seconds("new") == pytest.approx(1.0, rel=0.3), "an average tool"


def test_no_place_is_kept_for_longer_than_it_is_worth() -> None:
    patience = Patience()
    assert (patience.worthwhile("t", 2.0), patience.worthwhile("t", 9.0)) == (2.0, 5.0)
    for number in range(100):
        patience.note("t", 1.0 if number < 60 else 60.0)
    assert patience.worthwhile("t", 2.0) == 2.0, "some take longer"
    assert patience.worthwhile("t", 0.5) == 0.0, "most do"
    assert patience.worthwhile("t", 90.0) == pytest.approx(60.0, rel=0.1)


def test_patience_forgets_tools_that_have_not_been_called_for_long() -> None:
    patience = Patience()
    for number in range(3000):
        patience.note(f"t{number}", 1.0)
    assert len(patience._times) == 1024


def test_runs_that_come_and_go_leave_nothing_behind() -> None:
    driver = Driver(("w", replace(LLM, kv_slots=1_000_000)))
    for run in "abcd":
        turn(driver, run, reads=600_000.0)  # some wait: from then on idle runs are kept in order
    for run in "abcd":
        driver.send(ev.RunEnded(run))
    for number in range(500):
        run = f"r{number}"
        turn(driver, run)
        say(driver, run)
        ask(driver, run)
        go_on(driver, run)
        say(driver, run, first=3)
        driver.send(ev.RunEnded(run))
    (pool,) = [pool for key, pool in driver.scheduler._dispatcher._pools.items() if key.kind == "llm"]
    assert (pool.grown, pool.promised, pool.active) == (0, 0, 0)
    assert len(driver.scheduler._residency.idle[pool]._heap) < 200
