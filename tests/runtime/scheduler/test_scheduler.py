"""The scheduler's rules one by one, with a clock made of numbers."""

from __future__ import annotations

import pytest

from weft.graph.ir import NO_POLICY, Node, Policy, Value
from weft.graph.ops.base import Op
from weft.graph.ops.common import Const, Embed, Format, Forward, Input, Search, Tool
from weft.graph.ops.control import Loop
from weft.graph.ops.primitive import Decode, Prefill
from weft.graph.types import TEXT
from weft.runtime.scheduler import actions as act
from weft.runtime.scheduler import events as ev
from weft.runtime.scheduler.faults import Fault
from weft.runtime.scheduler.scheduler import Scheduler

PREFILL, DECODE, EMBED = Prefill("m", ()), Decode("m"), Embed()
LLM, EMBEDDER = ev.EngineSpec("llm", "m"), ev.EngineSpec("embed", "hash")


def node(number: int, op: Op, policy: Policy = NO_POLICY, **args: int | tuple[int, int]) -> Node:
    values = {name: Value(v) if isinstance(v, int) else Value(*v) for name, v in args.items()}
    return Node(number, op, values, f"n{number}", "app.py:1", policy)


def tool(number: int, policy: Policy = NO_POLICY, *, idempotent: bool = False, where: str = "server") -> Node:
    return node(number, Tool("t", TEXT, where, idempotent), policy)  # type: ignore[arg-type]


class Driver:
    """Sends events and keeps the time."""

    def __init__(self, *workers: tuple[str, ev.EngineSpec]) -> None:
        self.scheduler = Scheduler(grace_s=4.0)
        self.now = 100.0
        for worker, engine in workers:
            self.send(ev.WorkerJoined(worker, (engine,)))

    def send(self, event: ev.Event) -> list[act.Action]:
        return self.scheduler.handle(event, self.now)

    def run(self, *nodes: Node, run: str = "r", priority: int = 0, grows: bool = False) -> list[act.Action]:
        self.send(ev.RunStarted(run, priority, grows))
        return self.send(ev.NodesAdded(run, nodes))

    def done(self, number: int, attempt: int = 1, run: str = "r") -> list[act.Action]:
        return self.send(ev.TaskDone(run, number, attempt))

    def failed(self, number: int, fault: Fault, attempt: int = 1) -> list[act.Action]:
        return self.send(ev.TaskFailed("r", number, attempt, fault))

    def tick(self, now: float) -> list[act.Action]:
        self.now = now
        return self.send(ev.Tick())


def fault_of(actions: list[act.Action]) -> Fault:
    (fault,) = [action.fault for action in actions if isinstance(action, act.FailRun)]
    return fault


def test_chain_of_contexts_is_one_fragment_and_later_operands_are_pushed() -> None:
    driver = Driver(("w", LLM), ("e", EMBEDDER))
    chain = (
        node(0, PREFILL),
        node(1, DECODE, kv=0),
        node(2, EMBED, texts=(1, 1)),
        node(3, PREFILL, kv=1, x=2),
        node(4, DECODE, kv=3),
    )
    assert driver.run(*chain) == [act.Dispatch("w", "r", ((0, 1), (1, 1), (3, 1), (4, 1)))]
    assert driver.done(0) == []
    assert driver.done(1) == [act.Release("w", "r", (Value(0),)), act.Dispatch("e", "r", ((2, 1),))]
    assert driver.done(2) == [act.Push("w", "r", (Value(2),))]


def test_shared_context_forks_on_the_worker_that_holds_it() -> None:
    driver = Driver(("w1", LLM), ("w2", LLM))
    fork = (node(0, PREFILL), node(1, DECODE, kv=0), node(2, DECODE, kv=0))
    assert driver.run(*fork) == [act.Dispatch("w1", "r", ((0, 1), (1, 1), (2, 1)))]
    driver.done(0)
    assert driver.done(1) == [act.Release("w1", "r", (Value(1),))], "nobody continues the first branch"
    assert driver.done(2) == [act.Release("w1", "r", (Value(0), Value(2)))]


def test_later_increment_goes_where_its_context_is_and_a_growing_run_keeps_contexts() -> None:
    driver = Driver(("w1", LLM), ("w2", LLM))
    driver.run(node(0, PREFILL), node(1, DECODE, kv=0), grows=True)
    driver.done(0)
    assert driver.done(1) == []
    driver.run(*(node(n, PREFILL) for n in range(3)), run="load")
    assert driver.send(ev.NodesAdded("r", (node(2, PREFILL, kv=1),))) == [act.Dispatch("w1", "r", ((2, 1),))]


def test_least_loaded_worker_is_chosen() -> None:
    driver = Driver(("w1", LLM), ("w2", LLM))
    actions = driver.run(*(node(n, PREFILL) for n in range(4)))
    assert [action.worker for action in actions if isinstance(action, act.Dispatch)] == [
        "w1",
        "w2",
        "w1",
        "w2",
    ]


def test_full_engine_makes_work_queue_in_order_of_priority_then_arrival() -> None:
    driver = Driver(("e", ev.EngineSpec("embed", "hash", capacity=1)))
    driver.run(node(0, EMBED), node(1, EMBED), run="a")
    driver.run(node(0, EMBED), run="urgent", priority=1)
    order = []
    actions = driver.done(0, run="a")
    while actions:
        (dispatch,) = actions
        assert isinstance(dispatch, act.Dispatch)
        order.append(dispatch.run)
        actions = driver.done(dispatch.tasks[0][0], run=dispatch.run)
    assert order == ["urgent", "a"]


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
    assert driver.send(ev.ValuesKnown("r", (Value(0),))) == [act.Evaluate("r", 2, 1)]


def test_control_node_is_replaced_and_its_consumers_wait_on() -> None:
    driver = Driver()
    loop = Loop.__new__(Loop)
    nodes = (node(0, loop), node(1, Format(()), x=0))
    assert driver.run(*nodes) == [act.Expand("r", 0, 1)]
    turn = (node(2, Format(())), node(0, loop, done=2))
    assert driver.send(ev.Expanded("r", 0, turn)) == [act.Evaluate("r", 2, 1)]
    assert driver.done(2) == [act.Expand("r", 0, 1)]
    last = (node(0, Forward(TEXT), value=2),)
    assert driver.send(ev.Expanded("r", 0, last)) == [act.Evaluate("r", 0, 1)]
    assert driver.done(0) == [act.Evaluate("r", 1, 1)]


def test_lost_workers_tasks_run_elsewhere_and_its_reports_no_longer_count() -> None:
    driver = Driver(("w1", LLM), ("w2", LLM))
    driver.run(node(0, PREFILL), node(1, DECODE, kv=0))
    driver.done(0)
    assert driver.send(ev.WorkerLost("w1", "gone")) == [act.Dispatch("w2", "r", ((1, 2),))]
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
    assert driver.send(ev.WorkerJoined("w1", (LLM,))) == [act.Dispatch("w1", "r", ((0, 2),))]
    assert driver.tick(104.0) == []


def test_engine_that_nobody_ever_offered() -> None:
    driver = Driver(("w1", LLM))
    assert driver.run(node(0, Search("i"))) == [act.WakeAt(104.0)]
    fault = fault_of(driver.tick(104.0))
    assert fault.code == "not_found"
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
        assert actions == [act.Dispatch("w2", "r", ((0, 2),))]
    else:
        assert "idempotent" in fault_of(actions).message


def test_tool_that_had_not_started_is_run_elsewhere() -> None:
    spec = ev.EngineSpec("tool", "t", capacity=1)
    driver = Driver(("w1", spec))
    driver.run(tool(0))
    driver.run(tool(0), run="second")
    assert fault_of(driver.send(ev.WorkerLost("w1", "gone"))).code == "worker_lost"
    assert driver.send(ev.WorkerJoined("w2", (spec,))) == [act.Dispatch("w2", "second", ((0, 1),))]


def test_retries_back_off_exponentially_and_end() -> None:
    driver = Driver(("e", EMBEDDER))
    transient = Fault("internal", "busy", retryable=True)
    driver.run(node(0, EMBED, Policy(attempts=3, backoff_s=1.0)))
    assert driver.failed(0, transient) == [act.WakeAt(101.0)]
    assert driver.tick(101.0) == [act.Dispatch("e", "r", ((0, 2),))]
    assert driver.failed(0, transient, attempt=2) == [act.WakeAt(103.0)]
    assert driver.tick(103.0) == [act.Dispatch("e", "r", ((0, 3),))]
    fault = fault_of(driver.failed(0, transient, attempt=3))
    assert (fault.message, fault.worker, fault.location) == ("busy", "e", "app.py:1")


def test_retry_goes_where_its_continuation_waits() -> None:
    driver = Driver(("w1", LLM), ("w2", LLM))
    policy = Policy(attempts=2, backoff_s=1.0)
    driver.run(node(0, PREFILL, policy), node(1, DECODE, kv=0), node(2, PREFILL, kv=0))
    driver.failed(0, Fault("internal", "busy", retryable=True))
    driver.run(node(0, PREFILL), run="other")
    assert driver.tick(101.0) == [act.Dispatch("w1", "r", ((0, 2),))]


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
    assert driver.tick(153.0) == [act.Dispatch("w", "r", ((1, 2),)), act.WakeAt(155.0)]
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


def test_unknown_policies_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"unknown batching policy 'lifo'; known: 'fifo'"):
        Scheduler(batching="lifo")
    with pytest.raises(ValueError, match=r"unknown placement policy 'x'; known: 'least_loaded'"):
        Scheduler(placement="x")
