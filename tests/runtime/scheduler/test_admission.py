"""Who may use a language model: as many runs as their contexts fit, and for how long a tool is waited for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from weft.graph.analyses.forecast import Forecast
from weft.graph.ir import Node
from weft.graph.ops.common import Tool
from weft.graph.ops.primitive import Prefill
from weft.graph.prompt import Fixed
from weft.runtime.scheduler import actions as act
from weft.runtime.scheduler import events as ev
from weft.runtime.scheduler.patience import Patience

from .conftest import DECODE, EMBED, EMBEDDER, LLM, Driver, node, placed
from .test_placement import call

SMALL = replace(LLM, kv_slots=1000)  # tokens; 950 are given away
TURN = {0: Forecast(40.0, 340.0, reads=300.0), 1: Forecast(300.0, 300.0, writes=100.0)}


def turn(driver: Driver, run: str, *, grows: bool = False) -> list[tuple[str, str, int]]:
    """Start a run that needs 400 tokens; what is handed out."""
    nodes = (node(0, Prefill("m", (Fixed(f"{run}" * 600),))), node(1, DECODE, kv=0))
    return placed(driver.run(*nodes, run=run, grows=grows, forecasts=TURN))


def say(driver: Driver, run: str, first: int = 0) -> list[act.Action]:
    """The run's two primitives are done."""
    actions = driver.done(first, run=run, usage=ev.Usage(0, 300))
    return actions + driver.done(first + 1, run=run, usage=ev.Usage(300, 0, 100))


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


def test_runs_whose_contexts_do_not_fit_wait_until_others_are_over_oldest_first() -> None:
    driver = Driver(("w", SMALL), admission="working_set")
    assert [len(turn(driver, run)) for run in "abcd"] == [2, 2, 0, 0]
    assert end(driver, "b") == [("w", "c", 0), ("w", "c", 1)]
    assert end(driver, "a") == [("w", "d", 0), ("w", "d", 1)]


def test_what_is_kept_back_can_be_told_from_what_is_queued() -> None:
    driver = Driver(
        ("w", replace(SMALL, capacity=1)), ("e", replace(EMBEDDER, capacity=1)), admission="working_set"
    )
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
    driver = Driver(("w", replace(LLM, kv_slots=4000)), admission="working_set")
    family = " ".join(f"word{number}" for number in range(1000))  # 2,250 tokens or so

    def handed_out(run: str, text: str) -> int:
        nodes, forecasts = call(text, f"tail of {run}")
        count = len(placed(driver.run(*nodes, run=run, forecasts=forecasts)))
        driver.done(0, run=run)
        driver.send(ev.PromptRead(run, 1, 1))
        return count

    assert [handed_out(run, family) for run in "abc"] == [2, 2, 2]
    assert handed_out("other", family[::-1]) == 0


def test_everybody_is_let_in_where_nothing_else_is_asked_for_or_known() -> None:
    driver = Driver(("w", SMALL), admission="everybody")
    assert [len(turn(driver, run)) for run in "abcd"] == [2, 2, 2, 2]
    driver = Driver(("w", LLM), admission="working_set")
    assert [len(turn(driver, run)) for run in "abcd"] == [2, 2, 2, 2]


def test_only_runs_that_grow_wait_if_nobody_else_is_to_and_half_as_much_again_as_fits_is_let_in() -> None:
    driver = Driver(("w", SMALL), admission="growing")
    assert [len(turn(driver, run, grows=True)) for run in "abcd"] == [2, 2, 2, 0], "1,500 tokens of 1,000"
    assert [len(turn(driver, run)) for run in "efg"] == [2, 2, 2]
    assert [end(driver, run) for run in "efg"] == [[], [], []]
    assert end(driver, "a") == [("w", "d", 0), ("w", "d", 1)]


def test_a_run_that_needs_more_than_there_is_has_the_model_to_itself() -> None:
    driver = Driver(("w", SMALL), admission="working_set")
    large = {0: Forecast(400.0, 700.0, reads=3000.0), 1: Forecast(300.0, 300.0, writes=100.0)}
    nodes = (node(0, Prefill("m", (Fixed("x" * 9000),))), node(1, DECODE, kv=0))
    assert len(placed(driver.run(*nodes, run="large", forecasts=large))) == 2
    assert not turn(driver, "a")
    assert len(end(driver, "large")) == 2


def test_a_run_keeps_its_place_over_a_tool_call_for_as_long_as_such_calls_take() -> None:
    driver = Driver(("w", SMALL), admission="working_set")
    for run in "ab":
        turn(driver, run, grows=True)
    say(driver, "a")
    ask(driver, "a")
    assert not turn(driver, "c")
    driver.now += 3.0
    assert len(placed(go_on(driver, "a"))) == 2, "back in time"


def test_a_run_whose_tool_takes_too_long_loses_its_place_and_gets_another_when_there_is_one() -> None:
    driver = Driver(("w", SMALL), admission="working_set")
    for run in "ab":
        turn(driver, run, grows=True)
    say(driver, "a")
    ask(driver, "a")
    began = driver.now
    driver.send(ev.RunStarted("c"))
    nodes = (node(0, Prefill("m", (Fixed("c" * 600),))), node(1, DECODE, kv=0))
    (wake,) = driver.add(*nodes, run="c", forecasts=TURN)
    assert wake == act.WakeAt(began + 5.0), "nothing is known of the tool"
    assert placed(driver.tick(began + 5.0)) == [("w", "c", 0), ("w", "c", 1)]
    assert not placed(go_on(driver, "a")), "a tool has answered, but its run must wait for a place"
    assert end(driver, "c") == [("w", "a", 3), ("w", "a", 4)]


def test_nobody_in_a_turn_is_held_back_and_engines_of_other_kinds_go_on() -> None:
    driver = Driver(("w", SMALL), ("e", EMBEDDER), admission="working_set")
    for run in "ab":
        turn(driver, run, grows=True)
    driver.done(0, run="a", usage=ev.Usage(0, 300))
    long = {5: Forecast(90.0, 90.0, reads=900.0)}
    actions = driver.add(node(5, Prefill("m", (Fixed("z" * 9),)), kv=0), run="a", forecasts=long)
    assert placed(actions) == [("w", "a", 5)]
    assert not turn(driver, "c")
    assert placed(driver.add(node(7, EMBED), run="c")) == [("e", "c", 7)]


def test_who_is_held_back_can_be_cancelled_and_fails_when_the_last_worker_is_lost_for_good() -> None:
    driver = Driver(("w", SMALL), admission="working_set")
    for run in "abcd":
        turn(driver, run)
    driver.send(ev.RunEnded("c"))
    assert end(driver, "a") == [("w", "d", 0), ("w", "d", 1)]
    assert not turn(driver, "e")
    driver.send(ev.WorkerLost("w", "killed"))
    failed = {a.run for a in driver.tick(driver.now + 4.0) if isinstance(a, act.FailRun)}
    assert failed == {"b", "d", "e"}


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


def test_patience_forgets_tools_that_have_not_been_called_for_long() -> None:
    patience = Patience()
    for number in range(3000):
        patience.note(f"t{number}", 1.0)
    assert len(patience._times) == 1024


def test_runs_that_come_and_go_leave_nothing_behind() -> None:
    driver = Driver(("w", replace(LLM, kv_slots=1_000_000)), admission="working_set")
    for number in range(500):
        run = f"r{number}"
        turn(driver, run, grows=True)
        say(driver, run)
        ask(driver, run)
        go_on(driver, run)
        say(driver, run, first=3)
        driver.send(ev.RunEnded(run))
    (pool,) = [pool for key, pool in driver.scheduler._dispatcher._pools.items() if key.kind == "llm"]
    assert (pool.kv, pool.active) == (0, 0)
    idle = driver.scheduler._residency.idle
    assert idle is not None
    assert len(idle[pool]._heap) < 200
