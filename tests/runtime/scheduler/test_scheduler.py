"""The scheduler's rules one by one: what is ready when, what goes together, and what failures lead to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from weft.graph.ir import Policy, Value
from weft.graph.ops.common import Const, Format, Forward, Input, Search
from weft.graph.ops.control import Loop
from weft.graph.types import TEXT
from weft.runtime.scheduler import actions as act
from weft.runtime.scheduler import events as ev
from weft.runtime.scheduler.faults import Fault
from weft.runtime.scheduler.policies import Policies
from weft.runtime.scheduler.primitive import describe

from .conftest import DECODE, EMBED, EMBEDDER, LLM, PREFILL, Driver, fault_of, node, placed, sent, tool


def test_chain_of_contexts_is_one_fragment_and_what_waits_for_others_follows_when_they_are_done() -> None:
    driver = Driver(("w", LLM), ("e", EMBEDDER))
    chain = (
        node(0, PREFILL),
        node(1, DECODE, kv=0),
        node(2, EMBED, texts=(1, 1)),
        node(3, PREFILL, kv=1, x=2),
        node(4, DECODE, kv=3),
    )
    assert driver.run(*chain) == [sent("w", 0, 1)]
    assert driver.done(0) == []
    assert driver.done(1) == [act.Release("w", "r", (Value(0),)), sent("e", 2)]
    assert driver.done(2) == [sent("w", 3, 4)]


def test_what_waits_for_its_context_only_is_handed_out_while_the_context_is_being_made() -> None:
    driver = Driver(("w1", LLM), ("w2", LLM), ("e", EMBEDDER))
    driver.run(node(0, PREFILL), node(1, EMBED), node(2, PREFILL, kv=0, x=1), node(3, DECODE, kv=2))
    assert driver.done(1) == [sent("w1", 2, 3)]
    assert driver.add(node(4, DECODE, kv=2)) == [sent("w1", 4)]
    assert driver.done(0) == []


def test_a_search_goes_along_with_the_embedding_that_it_takes() -> None:
    driver = Driver()
    driver.send(ev.WorkerJoined("r1", (EMBEDDER, ev.EngineSpec("index"), ev.EngineSpec("tool", "t"))))
    assert driver.run(node(0, EMBED), node(1, Search("i"), vectors=0)) == [sent("r1", 0, 1)]
    assert driver.run(tool(2, idempotent=True), node(3, EMBED, texts=2), run="s") == [
        sent("r1", 2, 3, run="s")
    ]


@pytest.mark.parametrize(
    ("first", "second", "together"), [(True, True, True), (True, False, False), (False, False, True)]
)
def test_a_tool_that_must_not_run_twice_goes_along_only_behind_another(
    first: bool, second: bool, together: bool
) -> None:
    driver = Driver(("w", ev.EngineSpec("tool", "t")))
    later = replace(tool(1, idempotent=second), args={"x": Value(0)})
    actions = driver.run(tool(0, idempotent=first), later)
    assert placed(actions) == [("w", "r", 0), ("w", "r", 1)][: 2 if together else 1]


def test_shared_context_forks_on_the_worker_that_holds_it() -> None:
    driver = Driver(("w1", LLM), ("w2", LLM))
    fork = (node(0, PREFILL), node(1, DECODE, kv=0), node(2, DECODE, kv=0))
    assert driver.run(*fork) == [sent("w1", 0, 1, 2)]
    driver.done(0)
    assert driver.done(1) == [act.Release("w1", "r", (Value(1),))], "nobody continues the first branch"
    assert driver.done(2) == [act.Release("w1", "r", (Value(0), Value(2)))]


def test_later_increment_goes_where_its_context_is_and_a_growing_run_keeps_contexts() -> None:
    driver = Driver(("w1", LLM), ("w2", LLM))
    driver.run(node(0, PREFILL), node(1, DECODE, kv=0), grows=True)
    driver.done(0)
    assert driver.done(1) == []
    driver.run(*(node(n, PREFILL) for n in range(3)), run="load")
    assert driver.add(node(2, PREFILL, kv=1)) == [sent("w1", 2)]


def test_work_is_spread() -> None:
    driver = Driver(("w1", LLM), ("w2", LLM))
    actions = driver.run(*(node(n, PREFILL) for n in range(4)))
    assert sorted(worker for worker, _, _ in placed(actions)) == ["w1", "w1", "w2", "w2"]


def test_host_nodes_inputs_and_the_clients_tools() -> None:
    driver = Driver()
    nodes = (
        node(0, Input("q")),
        node(1, Const("1")),
        node(2, Format(()), a=0, b=1),
        tool(3, where="client"),
    )
    assert driver.run(*nodes) == [act.Evaluate("r", 1, 1), act.AskClient("r", 3, 1)]
    assert driver.done(1) == []
    assert driver.send(ev.ValuesKnown("r", {Value(0): None})) == [act.Evaluate("r", 2, 1)]


def test_what_is_known_is_not_computed_and_contexts_go_on_from_it() -> None:
    driver = Driver(("w", LLM))
    nodes = (
        node(0, PREFILL),
        node(1, DECODE, kv=0),
        node(2, Format(()), x=(1, 1)),
        node(3, PREFILL, kv=1, x=2),
        node(4, DECODE, kv=3),
    )
    known = {Value(0): None, Value(1): None, Value(1, 1): None}
    driver.send(ev.RunStarted("r"))
    assert driver.send(ev.NodesAdded("r", describe(nodes), known)) == [act.Evaluate("r", 2, 1)]
    assert driver.done(2) == [sent("w", 3, 4)]
    driver.done(3)
    assert driver.done(4) == [act.Release("w", "r", (Value(3), Value(4)))]


def test_control_node_is_replaced_and_its_consumers_wait_on() -> None:
    driver = Driver()
    loop = Loop.__new__(Loop)
    nodes = (node(0, loop), node(1, Format(()), x=0))
    assert driver.run(*nodes) == [act.Expand("r", 0, 1)]
    turn = (node(2, Format(())), node(0, loop, done=2))
    assert driver.send(ev.Expanded("r", 0, describe(turn))) == [act.Evaluate("r", 2, 1)]
    assert driver.done(2) == [act.Expand("r", 0, 1)]
    last = (node(0, Forward(TEXT), value=2),)
    assert driver.send(ev.Expanded("r", 0, describe(last))) == [act.Evaluate("r", 0, 1)]
    assert driver.done(0) == [act.Evaluate("r", 1, 1)]


def test_lost_workers_tasks_run_elsewhere_and_its_reports_no_longer_count() -> None:
    driver = Driver(("w1", LLM), ("w2", LLM))
    driver.run(node(0, PREFILL), node(1, DECODE, kv=0))
    driver.done(0)
    assert driver.send(ev.WorkerLost("w1", "gone")) == [sent("w2", 1, attempt=2)]
    assert driver.done(1, attempt=1) == []
    assert driver.done(1, attempt=2) == [act.Release("w2", "r", (Value(1),))]


def test_nobody_joins_in_time() -> None:
    driver = Driver(("w1", LLM))
    driver.run(node(0, PREFILL))
    assert driver.send(ev.WorkerLost("w1", "its host vanished")) == [act.WakeAt(104.0)]
    fault = fault_of(driver.tick(104.0))
    assert (fault.code, fault.worker, fault.location) == ("worker_lost", "w1", "app.py:1")
    assert "'w1'" in fault.message
    assert "its host vanished" in fault.message
    assert driver.send(ev.WorkerJoined("w1", (LLM,))) == []


def test_somebody_joins_in_time() -> None:
    driver = Driver(("w1", LLM))
    driver.run(node(0, PREFILL))
    driver.send(ev.WorkerLost("w1", "gone"))
    driver.now = 103.0
    assert driver.send(ev.WorkerJoined("w1", (LLM,))) == [sent("w1", 0, attempt=2)]
    assert driver.tick(104.0) == []


def test_engine_that_nobody_ever_offered() -> None:
    driver = Driver(("w1", LLM))
    assert driver.run(node(0, Search("i"))) == [act.WakeAt(104.0)]
    fault = fault_of(driver.tick(104.0))
    assert fault.code == "unavailable"
    assert "index" in fault.message


def test_task_that_takes_three_workers_down_ends_its_run_only() -> None:
    driver = Driver(("w1", LLM), ("w2", LLM), ("w3", LLM), ("w4", LLM))
    driver.run(node(0, PREFILL))
    assert len(driver.send(ev.WorkerLost("w1", "killed"))) == 1
    assert len(driver.send(ev.WorkerLost("w2", "killed"))) == 1
    fault = fault_of(driver.send(ev.WorkerLost("w3", "killed")))
    assert fault.worker == "w3"
    assert "3 workers" in fault.message


@pytest.mark.parametrize("idempotent", [False, True])
def test_tool_that_may_have_changed_something_is_not_run_again(idempotent: bool) -> None:
    spec = ev.EngineSpec("tool", "t")
    driver = Driver(("w1", spec), ("w2", spec))
    driver.run(tool(0, Policy(attempts=5), idempotent=idempotent))
    actions = driver.send(ev.WorkerLost("w1", "gone"))
    if idempotent:
        assert actions == [sent("w2", 0, attempt=2)]
    else:
        assert "idempotent" in fault_of(actions).message


def test_tool_that_had_not_started_is_run_elsewhere() -> None:
    spec = ev.EngineSpec("tool", "t", capacity=1)
    driver = Driver(("w1", spec))
    driver.run(tool(0))
    driver.run(tool(0), run="second")
    assert fault_of(driver.send(ev.WorkerLost("w1", "gone"))).code == "worker_lost"
    assert driver.send(ev.WorkerJoined("w2", (spec,))) == [sent("w2", 0, run="second")]


def test_retries_back_off_exponentially_and_end() -> None:
    driver = Driver(("e", EMBEDDER))
    transient = Fault("internal", "busy", retryable=True)
    driver.run(node(0, EMBED, Policy(attempts=3, backoff_s=1.0)))
    assert driver.failed(0, transient) == [act.WakeAt(101.0)]
    assert driver.tick(101.0) == [sent("e", 0, attempt=2)]
    assert driver.failed(0, transient, attempt=2) == [act.WakeAt(103.0)]
    assert driver.tick(103.0) == [sent("e", 0, attempt=3)]
    fault = fault_of(driver.failed(0, transient, attempt=3))
    assert (fault.message, fault.worker, fault.location) == ("busy", "e", "app.py:1")


def test_retry_takes_along_what_was_to_follow() -> None:
    driver = Driver(("w1", LLM), ("w2", LLM))
    policy = Policy(attempts=2, backoff_s=1.0)
    driver.run(node(0, PREFILL, policy), node(1, DECODE, kv=0), node(2, PREFILL, kv=0))
    actions = driver.failed(0, Fault("internal", "busy", retryable=True))
    assert actions[:2] == [act.CancelTasks("w1", "r", (1,)), act.CancelTasks("w1", "r", (2,))]
    again = act.Fragment("r", ((0, 2), (1, 2), (2, 2)))
    assert driver.tick(101.0) == [act.Dispatch("w1", (again,))]


def test_permanent_fault_is_not_tried_again() -> None:
    driver = Driver(("e", EMBEDDER))
    driver.run(node(0, EMBED, Policy(attempts=3)))
    assert fault_of(driver.failed(0, Fault("invalid", "no"))).code == "invalid"


def test_timeout_counts_per_attempt_and_from_the_moment_that_operands_are_known() -> None:
    driver = Driver(("w", LLM))
    driver.run(node(0, PREFILL), node(1, DECODE, Policy(timeout_s=2.0, attempts=2, backoff_s=1.0), kv=0))
    driver.now = 150.0
    assert driver.done(0) == [act.WakeAt(152.0)]
    assert driver.tick(152.0) == [act.CancelTasks("w", "r", (1,)), act.WakeAt(153.0)]
    assert driver.tick(153.0) == [sent("w", 1, attempt=2), act.WakeAt(155.0)]
    fault = fault_of(driver.tick(155.0))
    assert (fault.code, fault.node) == ("timeout", "%1 decode 'n1'")


def test_timeout_of_a_tool_that_may_have_changed_something_is_final() -> None:
    driver = Driver()
    driver.run(tool(0, Policy(timeout_s=1.0, attempts=3), where="client"))
    assert fault_of(driver.tick(101.0)).code == "timeout"


def test_early_tick_is_repeated() -> None:
    driver = Driver(("e", EMBEDDER))
    driver.run(node(0, EMBED, Policy(timeout_s=1.0)))
    assert driver.tick(100.5) == [act.WakeAt(101.0)]


def test_end_of_a_run_cancels_what_runs_and_releases_what_is_held() -> None:
    driver = Driver(("w1", LLM), ("w2", LLM))
    driver.run(node(0, PREFILL), node(1, PREFILL))
    driver.done(1)
    actions = driver.send(ev.RunEnded("r"))
    assert actions == [act.CancelTasks("w1", "r"), act.Release("w1", "r"), act.Release("w2", "r")]
    assert driver.done(0) == []
    assert driver.send(ev.RunEnded("r")) == []


@pytest.mark.parametrize("kind", ["batching", "priority", "fairness", "placement", "advice"])
def test_unknown_policies_are_refused_by_name(kind: str) -> None:
    wrong: dict[str, Any] = {kind: "x"}
    with pytest.raises(ValueError, match=rf"unknown {kind} policy 'x'; known: '"):
        Policies(**wrong)
