"""A scheduler with a clock made of numbers, and short ways to write nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from weft.graph.analyses.forecast import Forecast
from weft.graph.ir import NO_POLICY, Node, Policy, Value
from weft.graph.ops.base import Op
from weft.graph.ops.common import Embed, Tool
from weft.graph.ops.primitive import Decode, Prefill
from weft.graph.types import TEXT
from weft.runtime.scheduler import actions as act
from weft.runtime.scheduler import events as ev
from weft.runtime.scheduler.faults import Fault
from weft.runtime.scheduler.policies import Policies
from weft.runtime.scheduler.primitive import describe
from weft.runtime.scheduler.scheduler import Scheduler

PREFILL, DECODE, EMBED = Prefill("m", ()), Decode("m"), Embed()
LLM, EMBEDDER = ev.EngineSpec("llm", "m"), ev.EngineSpec("embed", "hash")


def node(number: int, op: Op, policy: Policy = NO_POLICY, **args: int | tuple[int, int]) -> Node:
    values = {name: Value(v) if isinstance(v, int) else Value(*v) for name, v in args.items()}
    return Node(number, op, values, f"n{number}", "app.py:1", policy)


def tool(
    number: int,
    policy: Policy = NO_POLICY,
    *,
    idempotent: bool = False,
    where: Literal["client", "server"] = "server",
) -> Node:
    return node(number, Tool("t", TEXT, where, idempotent), policy)


def sent(worker: str, *nodes: int, run: str = "r", attempt: int = 1) -> act.Dispatch:
    """One fragment of first attempts."""
    return act.Dispatch(worker, (act.Fragment(run, tuple((number, attempt) for number in nodes)),))


class Driver:
    """Sends events and keeps the time."""

    def __init__(self, *workers: tuple[str, ev.EngineSpec], **policies: Any) -> None:
        self.scheduler = Scheduler(Policies(**({"grace_s": 4.0} | policies)))
        self.now = 100.0
        for worker, engine in workers:
            self.send(ev.WorkerJoined(worker, (engine,)))

    def send(self, event: ev.Event) -> list[act.Action]:
        return self.scheduler.handle(event, now=self.now)

    def run(
        self,
        *nodes: Node,
        run: str = "r",
        priority: int = 0,
        grows: bool = False,
        namespace: str = "",
        deadline: float | None = None,
        forecasts: Mapping[int, Forecast] | None = None,
    ) -> list[act.Action]:
        self.send(ev.RunStarted(run, priority, grows, namespace, deadline))
        return self.add(*nodes, run=run, forecasts=forecasts)

    def add(
        self, *nodes: Node, run: str = "r", forecasts: Mapping[int, Forecast] | None = None
    ) -> list[act.Action]:
        return self.send(ev.NodesAdded(run, describe(nodes, forecasts)))

    def done(
        self, number: int, attempt: int = 1, run: str = "r", usage: ev.Usage | None = None
    ) -> list[act.Action]:
        return self.send(ev.TaskDone(run, number, attempt, usage=usage))

    def failed(self, number: int, fault: Fault, attempt: int = 1) -> list[act.Action]:
        return self.send(ev.TaskFailed("r", number, attempt, fault))

    def tick(self, now: float) -> list[act.Action]:
        self.now = now
        return self.send(ev.Tick())


def fault_of(actions: list[act.Action]) -> Fault:
    (fault,) = [action.fault for action in actions if isinstance(action, act.NodeFailed)]
    return fault


def placed(actions: list[act.Action]) -> list[tuple[str, str, int]]:
    """Worker, run and node of every task that is handed out, in order."""
    return [
        (action.worker, run, number)
        for action in actions
        if isinstance(action, act.Dispatch)
        for run, tasks in action.fragments
        for number, _ in tasks
    ]
