"""Which primitives are computed together, and in what order."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from weft.graph.analyses.forecast import Forecast
from weft.graph.ir import Node
from weft.graph.ops.common import Format, Search
from weft.runtime.scheduler import actions as act
from weft.runtime.scheduler import events as ev

from .conftest import EMBED, Driver, node, placed

BATCHES = ev.EngineSpec("embed", "hash", capacity=64, batch=2, item_ms=400.0)
BATCH_S = 1.0


def ways(**remaining_ms: float) -> dict[int, Forecast]:
    return {int(name[1:]): Forecast(ms=400.0, remaining_ms=ms) for name, ms in remaining_ms.items()}


def batches_of(driver: Driver, actions: list[act.Action]) -> list[list[tuple[str, int]]]:
    """Let every batch take the same time; what was computed in each, until nothing is left."""
    found = []
    while batch := [(run, number) for _, run, number in placed(actions)]:
        found.append(batch)
        driver.now += BATCH_S
        actions = [action for run, number in batch for action in driver.done(number, run=run)]
    return found


def figure_7(driver: Driver) -> tuple[list[list[tuple[str, int]]], dict[str, float]]:
    """Teola's figure 7: when the next steps of both queries can begin.

    Of the first query, A (0) starts a long way, and B (2) a short one whose next step waits for a slow search
    (9) anyway; G (0) of the second query starts a long way. One engine takes two of A, B and G at a time.
    """
    driver.run(
        node(9, Search("i")),
        node(2, EMBED),
        node(0, EMBED),
        node(1, Format(()), x=0),
        node(3, Format(()), x=2, y=9),
        run="q1",
        forecasts=ways(n0=1200, n2=500),
    )
    driver.run(node(0, EMBED), node(1, Format(()), x=0), run="q2", forecasts=ways(n0=1200))
    began = driver.now
    actions = driver.send(ev.WorkerJoined("e", (BATCHES,)))
    batches, next_steps = [], {}
    while batch := [(run, number) for _, run, number in placed(actions)]:
        batches.append(batch)
        driver.now += BATCH_S
        actions = [action for run, number in batch for action in driver.done(number, run=run)]
        for action in actions:
            if isinstance(action, act.Evaluate):
                next_steps[action.run] = driver.now - began
    return batches, next_steps


def test_batches_are_formed_for_what_they_set_free() -> None:
    batches, next_steps = figure_7(Driver(batching="topology", priority="remaining"))
    assert batches == [[("q2", 0), ("q1", 0)], [("q1", 2)]]
    assert next_steps == {"q1": 1.0, "q2": 1.0}
    batches, next_steps = figure_7(Driver(batching="fifo", priority="arrival"))
    assert batches == [[("q1", 2), ("q1", 0)], [("q2", 0)]]
    assert next_steps == {"q1": 1.0, "q2": 2.0}


def test_a_run_alone_is_computed_in_the_order_of_what_follows() -> None:
    """Teola's figure 7, one query at a time: A has a long way before it, B a short one."""
    driver = Driver(batching="topology")
    nodes = tuple(node(n, EMBED) for n in range(4))
    driver.run(*nodes, forecasts=ways(n0=500, n1=1200, n2=800, n3=1200))
    actions = driver.send(ev.WorkerJoined("e", (BATCHES,)))
    assert batches_of(driver, actions) == [[("r", 1), ("r", 3)], [("r", 2), ("r", 0)]]


@pytest.mark.parametrize("batching", ["topology", "per_invocation", "fifo"])
def test_one_message_carries_a_whole_batch(batching: str) -> None:
    driver = Driver(batching=batching)
    driver.run(*(node(n, EMBED) for n in range(6)))
    spec = replace(BATCHES, batch=8)
    actions = driver.send(ev.WorkerJoined("e", (spec,)))
    (dispatch,) = [action for action in actions if isinstance(action, act.Dispatch)]
    assert len(dispatch.fragments) == 6


def test_calls_of_different_programs_are_not_mixed_per_invocation() -> None:
    driver = Driver(batching="per_invocation", priority="arrival")
    driver.run(node(0, EMBED), node(1, EMBED), node(2, EMBED), run="a")
    driver.run(node(0, EMBED), run="b")
    actions = driver.send(ev.WorkerJoined("e", (BATCHES,)))
    assert batches_of(driver, actions) == [[("a", 0), ("a", 1)], [("a", 2)], [("b", 0)]]
    driver = Driver(batching="fifo", priority="arrival")
    driver.run(node(0, EMBED), node(1, EMBED), node(2, EMBED), run="a")
    driver.run(node(0, EMBED), run="b")
    actions = driver.send(ev.WorkerJoined("e", (BATCHES,)))
    assert batches_of(driver, actions) == [[("a", 0), ("a", 1)], [("a", 2), ("b", 0)]]


@pytest.mark.parametrize("size", [1, 5, 16, 64])
def test_correlated_work_is_done_together_although_other_work_is_interleaved(size: int) -> None:
    driver = Driver(batching="topology", priority="arrival")
    nodes: list[Node] = []
    driver.send(ev.RunStarted("bundle"))
    for number in range(48):
        nodes.append(node(number, EMBED))
        if number % 12 == 6:
            driver.run(node(0, EMBED), run=f"other{number}")
    driver.add(*nodes, run="bundle", forecasts=dict.fromkeys(range(48), Forecast(400.0, 900.0)))
    actions = driver.send(ev.WorkerJoined("e", (replace(BATCHES, batch=size),)))
    found = batches_of(driver, actions)
    touched = [batch for batch in found if any(run == "bundle" for run, _ in batch)]
    assert len(touched) <= math.ceil(48 / size) + 1


def test_whoever_has_waited_longest_goes_first_after_the_bound() -> None:
    """Without it, a long program would wait for as long as shorter ones keep coming."""
    driver = Driver(batching="topology", priority="remaining", longest_wait_s=10.0)
    driver.send(ev.WorkerJoined("e", (replace(BATCHES, batch=1, item_ms=400.0),)))
    driver.run(node(0, EMBED), run="first")
    driver.run(node(0, EMBED), run="long", forecasts={0: Forecast(ms=1e6)})
    before: list[str] = ["first"]
    for number in range(50):
        driver.now += 1.0
        driver.run(node(0, EMBED), run=f"short{number}")
        actions = driver.done(0, run=before[-1])
        ((_, run, _),) = placed(actions)
        before.append(run)
        if run == "long":
            break
    assert before[-1] == "long"
    assert len(before) == 12


@pytest.mark.parametrize("namespace", ["bulk", "chats"])
def test_many_who_have_waited_too_long_leave_every_other_turn_to_who_is_more_urgent(namespace: str) -> None:
    driver = Driver(("e", replace(BATCHES, batch=1, item_ms=400.0)), longest_wait_s=10.0)
    each = {0: Forecast(400.0, 400.0)}
    for number in range(20):
        driver.run(node(0, EMBED), run=f"bulk{number}", priority=-100, namespace="bulk", forecasts=each)
    driver.now += 60.0
    for number in range(3):
        driver.run(node(0, EMBED), run=f"chat{number}", namespace=namespace, forecasts=each)
    served = ["bulk0"]
    for _ in range(7):
        ((_, run, _),) = placed(driver.done(0, run=served[-1]))
        served.append(run)
    assert [run for run in served if "chat" in run] == ["chat0", "chat1", "chat2"]
    assert [run for run in served if "bulk" in run] == ["bulk0", "bulk1", "bulk2", "bulk3", "bulk4"]


def test_what_is_expected_of_nodes_that_wait_can_change() -> None:
    driver = Driver(("w", BATCHES), batching="topology")
    ahead = [node(n, Format(())) for n in (0, 1, 2)]
    work = [node(10 + n, EMBED, x=n) for n in (0, 1, 2)]
    driver.run(*ahead, *work, grows=True, forecasts=ways(n10=900.0, n11=800.0, n12=700.0))
    driver.send(ev.NodesAdded("r", (), revised=ways(n12=1000.0)))
    actions = driver.scheduler.handle(*(ev.TaskDone("r", n, 1) for n in (0, 1, 2)), now=driver.now)
    assert batches_of(driver, actions) == [[("r", 12), ("r", 10)], [("r", 11)]]
