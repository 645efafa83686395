"""The scheduler against a model world: random graphs, workers that come and go, failures, cancellations."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from weft.graph.analyses.forecast import Forecast
from weft.graph.analyses.objectives import LATENCY, THROUGHPUT
from weft.graph.costs import DecodePoint, ModelCosts, PrefillPoint
from weft.graph.ir import NO_POLICY, Graph, Node, Policy, Value
from weft.graph.ops.base import Op
from weft.graph.ops.common import Embed, Format, Forward, Input, Search, Tool
from weft.graph.ops.control import Map
from weft.graph.ops.primitive import Decode, Prefill, Score
from weft.graph.prompt import Fixed
from weft.graph.types import TEXT
from weft.runtime.scheduler import actions as act
from weft.runtime.scheduler import events as ev
from weft.runtime.scheduler.admission import ADMISSION
from weft.runtime.scheduler.batching import BATCHING
from weft.runtime.scheduler.fairness import FAIRNESS
from weft.runtime.scheduler.faults import Fault, repeatable
from weft.runtime.scheduler.placement import PLACEMENT
from weft.runtime.scheduler.policies import Policies
from weft.runtime.scheduler.prefixes import Content, FixedContent, blocks_of
from weft.runtime.scheduler.primitive import EngineKey, describe, engine_of
from weft.runtime.scheduler.priority import PRIORITY
from weft.runtime.scheduler.scheduler import Scheduler

GRACE_S = 4.0
BODY = Graph((Node(0, Input("item")),), (Value(0),))
LLM_KINDS = ("prefill", "decode", "prefill", "decode", "score")
KINDS = (*LLM_KINDS, "embed", "embed", "search", "tool", "client", "format", "map")


@dataclass
class ModelRun:
    """What the world knows of a run."""

    grows: bool
    nodes: dict[int, Node] = field(default_factory=dict)
    done: set[int] = field(default_factory=set)
    attempts: dict[int, int] = field(default_factory=dict)
    holders: dict[int, ModelWorker] = field(default_factory=dict)  # who made each node's results
    over: bool = False
    failed: bool = False


@dataclass
class ModelWorker:
    """A living worker: what it has been given or has made."""

    offers: tuple[ev.EngineSpec, ...]
    holds: set[tuple[str, Value]] = field(default_factory=set)

    def offers_engine(self, key: EngineKey) -> bool:
        return any(spec.kind == key.kind and key.model in ("", spec.model) for spec in self.offers)


def engines(capacity: int, models: Iterable[str] = "ab", batch: int = 0) -> tuple[ev.EngineSpec, ...]:
    llms = tuple(ev.EngineSpec("llm", model, capacity, kv_slots=3000) for model in models)
    rest = (("embed", "hash"), ("index", ""), ("tool", "t"))
    return llms + tuple(ev.EngineSpec(kind, model, capacity, batch, 40.0 * batch) for kind, model in rest)


class World:
    """Performs the scheduler's actions and checks each of them."""

    def __init__(self, policies: Policies) -> None:
        self.policies = policies
        self.scheduler = Scheduler(policies, grace_s=GRACE_S)
        self.now = 0.0
        self.wake = float("inf")
        self.runs: dict[str, ModelRun] = {}
        self.workers: dict[str, ModelWorker] = {}
        self.outstanding: dict[tuple[str, int], tuple[int, str]] = {}  # attempt, worker ("" for here)
        self.bound: set[tuple[str, int]] = set()  # tasks that were placed on account of others
        self.called_back: set[tuple[str, int]] = set()  # tasks that were cancelled before they could begin
        self.history: list[tuple[tuple[ev.Event, ...], float, list[act.Action]]] = []
        self.message: list[ev.Event] | None = None  # events that are to be seen together
        self.ending: set[str] = set()  # runs that end in the present message, which may ask for them before
        self.failing: set[tuple[str, int]] = set()  # tasks that fail in it
        self.next_node = 0

    # ---- events

    def send(self, event: ev.Event) -> None:
        if self.message is not None:
            self.message.append(event)
        else:
            self.handle(event)

    def flush(self) -> None:
        events, self.message = self.message or (), None
        if events:
            self.handle(*events)

    def handle(self, *events: ev.Event) -> None:
        together = events if len(events) > 1 else ()
        self.ending = {event.run for event in together if isinstance(event, ev.RunEnded)}
        self.failing = {(event.run, event.node) for event in together if isinstance(event, ev.TaskFailed)}
        actions = self.scheduler.handle(*events, now=self.now)
        self.history.append((events, self.now, list(actions)))
        for action in actions:
            self.perform(action)

    def finish(self, run: str, node: int) -> None:
        attempt, worker = self.outstanding.pop((run, node))
        live = self.runs[run]
        assert node not in live.done
        live.done.add(node)
        if worker:
            self.workers[worker].holds |= {(run, Value(node, 0)), (run, Value(node, 1))}
            live.holders[node] = self.workers[worker]
        if isinstance(live.nodes[node].op, Map):
            live.done.discard(node)
            successor = replace(live.nodes[node], op=Forward(TEXT))
            fresh = self.make("format", dict(successor.args))
            live.nodes[fresh.id] = fresh
            live.nodes[node] = replace(successor, args={"value": Value(fresh.id)})
            live.attempts.pop(node)
            self.send(ev.Expanded(run, node, describe((fresh, live.nodes[node]))))
        else:
            written = FixedContent(blocks_of(f"{run} {node}"))
            usage = ev.Usage(node % 3 * 10, 5, node % 2) if node % 4 else None
            self.send(ev.TaskDone(run, node, attempt, (None, written), usage))

    def fail(self, run: str, node: int, retryable: bool) -> None:
        attempt, _ = self.outstanding.pop((run, node))
        self.send(ev.TaskFailed(run, node, attempt, Fault("internal", "broke", retryable=retryable)))

    def lose(self, worker: str) -> None:
        del self.workers[worker]
        for key in [key for key, (_, where) in self.outstanding.items() if where == worker]:
            del self.outstanding[key]
        self.send(ev.WorkerLost(worker, "test"))

    def make(self, kind: str, args: dict[str, Value], policy: Policy = NO_POLICY, model: str = "a") -> Node:
        self.next_node += 1
        ops: dict[str, Op] = {
            "prefill": Prefill(model, (Fixed("x" * 1500 * (self.next_node % 3)), Fixed("y"))),
            "decode": Decode(model),
            "score": Score(model, ("x", "y")),
            "embed": Embed(),
            "search": Search("i"),
            "tool": Tool("t", where="server", idempotent=self.next_node % 2 == 0),
            "client": Tool("c"),
            "format": Format(()),
            "map": Map(BODY),
        }
        return Node(self.next_node, ops[kind], args, policy=policy)

    # ---- actions

    def perform(self, action: act.Action) -> None:
        match action:
            case act.WakeAt(time):
                assert time < self.wake
                self.wake = time
            case act.Dispatch(worker, fragments):
                assert len({id(fragment) for fragment in fragments}) == len(fragments) > 0
                for fragment in fragments:
                    self.take(self.workers[worker], worker, fragment)
            case act.CancelTasks() | act.Release():
                self.perform_for(self.runs[action.run], action)
            case _ if action.run not in self.ending:
                self.perform_for(self.runs[action.run], action)

    def perform_for(self, live: ModelRun, action: act.Action) -> None:
        ending = isinstance(action, (act.CancelTasks, act.Release)) and not live.failed
        assert ending or not live.over, f"{action} after the end of its run"
        match action:
            case act.Evaluate(run, node, attempt) | act.Expand(run, node, attempt):
                self.check_ready(live, node)
                self.begin(run, node, attempt, "")
            case act.AskClient(run, node, attempt):
                self.check_ready(live, node)
                self.begin(run, node, attempt, "")
            case act.CancelTasks(worker, run, nodes):
                assert worker in self.workers
                for key, (_, where) in list(self.outstanding.items()):
                    if key[0] == run and where == worker and (not nodes or key[1] in nodes):
                        if not self.has_operands(key):
                            self.called_back.add(key)
                        del self.outstanding[key]
            case act.Release(worker, run, values):
                self.release(live, worker, run, values)
            case act.FailRun(run, fault):
                assert fault.message
                live.over = live.failed = True
                self.drop(run)

    def take(self, worker: ModelWorker, name: str, fragment: act.Fragment) -> None:
        """A worker is given a fragment: every operand must be known, made in it, or being made there."""
        run, tasks = fragment
        live = self.runs[run]
        assert not live.over or run in self.ending
        inside: set[int] = set()
        for number, attempt in tasks:
            node = live.nodes[number]
            assert worker.offers_engine(engine_of(node.op))
            self.bound.discard((run, number))
            for value in node.args.values():
                if value.node in live.done:
                    worker.holds.add((run, value))
                elif value.node not in inside:
                    assert not inside, "a follower waits for what its fragment does not make"
                    assert node.args["kv"].node == value.node
                    if (run, value.node) not in self.failing:  # else it is called back at once
                        assert self.outstanding[run, value.node][1] == name
                    self.bound.add((run, number))
            if inside:
                self.bound.add((run, number))
            inside.add(number)
            self.begin(run, number, attempt, name)

    def begin(self, run: str, node: int, attempt: int, worker: str) -> None:
        live = self.runs[run]
        assert node not in live.done
        assert (run, node) not in self.outstanding, "dispatched twice at the same time"
        assert attempt == live.attempts.get(node, 0) + 1
        may_again = repeatable(live.nodes[node]) or live.nodes[node].policy.attempts > 1
        assert attempt == 1 or may_again or (run, node) in self.called_back
        live.attempts[node] = attempt
        self.outstanding[run, node] = (attempt, worker)

    def release(self, live: ModelRun, worker: str, run: str, values: tuple[Value, ...]) -> None:
        holds = self.workers[worker].holds
        if not values:
            self.workers[worker].holds = {held for held in holds if held[0] != run}
            return
        assert not live.grows
        for value in values:
            takers = [n for n in live.nodes.values() if n.args.get("kv") == value]
            assert all(taker.id in live.done for taker in takers)
            holds.discard((run, value))

    def check_ready(self, live: ModelRun, node: int) -> None:
        assert all(value.node in live.done for value in live.nodes[node].args.values())

    def drop(self, run: str) -> None:
        self.outstanding = {key: task for key, task in self.outstanding.items() if key[0] != run}

    # ---- what can happen next

    def startable(self) -> list[tuple[str, int]]:
        """The tasks that have all their operands where they run."""
        return [key for key in self.outstanding if self.has_operands(key)]

    def has_operands(self, key: tuple[str, int]) -> bool:
        run, number = key
        args = self.runs[run].nodes[number].args.values()
        worker = self.outstanding[key][1]
        return not worker or all((run, value) in self.workers[worker].holds for value in args)


class Chaos:
    """Everything that can happen, in any order."""

    def __init__(self, seed: int) -> None:
        self.choose = choose = random.Random(seed)
        policies = Policies(
            batching=choose.choice(sorted(BATCHING)),
            priority=choose.choice(sorted(PRIORITY)),
            fairness=choose.choice(sorted(FAIRNESS)),
            placement=choose.choice(sorted(PLACEMENT)),
            admission=choose.choice(sorted(ADMISSION)),
        )
        self.world = World(policies)
        self.count = 0
        for name in ("w1", "w2"):
            self.join(name, choose.randint(1, 2))

    def step(self) -> None:
        """Something happens."""
        steps = (
            self.start,
            self.grow,
            self.come,
            self.lose,
            self.fail,
            self.report_stale,
            self.cancel,
            self.wait,
            self.several,
        )
        weights = (3, 2, 1, 1, 2, 1, 1, 2, 3)
        happens = self.choose.choices((self.finish, *steps), (10, *weights))[0]
        happens()
        self.check_capacity()

    # ---- what can happen

    def several(self) -> None:
        """Things happen that the scheduler sees together."""
        self.world.message = []
        for _ in range(self.choose.randint(2, 5)):
            self.choose.choice((self.finish, self.finish, self.fail, self.grow))()
        if self.choose.random() < 0.3:
            self.cancel()
        self.world.flush()

    def start(self) -> None:
        self.count += 1
        run, world, choose = f"r{self.count}", self.world, self.choose
        grows = choose.random() < 0.5
        world.runs[run] = ModelRun(grows)
        given = Node(0, Input("x"))
        world.runs[run].nodes[0] = given
        nodes = (given, *self.nodes(run))
        world.send(ev.RunStarted(run, choose.randint(-1, 1), grows, choose.choice("ab")))
        world.send(ev.NodesAdded(run, describe(nodes, self.forecasts(nodes)), self.known(run, nodes[1:])))
        world.runs[run].done.add(0)
        world.send(ev.ValuesKnown(run, {Value(0): None}))

    def grow(self) -> None:
        growing = [name for name, run in self.world.runs.items() if run.grows and not run.over]
        if growing:
            run = self.choose.choice(growing)
            nodes = self.nodes(run)
            self.world.send(
                ev.NodesAdded(run, describe(nodes, self.forecasts(nodes)), self.known(run, nodes))
            )

    def come(self) -> None:
        absent = [name for name in ("w1", "w2", "w3") if name not in self.world.workers]
        if absent:
            self.join(
                self.choose.choice(absent), self.choose.randint(0, 2), self.choose.choice(("ab", "a", "b"))
            )

    def join(self, name: str, capacity: int, models: str = "ab") -> None:
        self.world.workers[name] = ModelWorker(engines(capacity, models, self.choose.randint(0, 3)))
        self.world.send(ev.WorkerJoined(name, self.world.workers[name].offers))

    def lose(self) -> None:
        if self.world.workers:
            self.world.lose(self.choose.choice(sorted(self.world.workers)))

    def finish(self) -> None:
        for _ in range(self.choose.randint(1, 5)):
            if self.world.startable():
                self.world.finish(*self.choose.choice(self.world.startable()))

    def fail(self) -> None:
        if self.world.startable():
            self.world.fail(*self.choose.choice(self.world.startable()), self.choose.random() < 0.75)

    def report_stale(self) -> None:
        if self.world.outstanding:
            run, node = self.choose.choice(sorted(self.world.outstanding))
            stale = self.world.outstanding[run, node][0] - 1
            before = len(self.world.history)
            self.world.send(ev.TaskDone(run, node, stale))
            assert self.world.history[before][2] == []

    def cancel(self) -> None:
        alive = [name for name, run in self.world.runs.items() if not run.over]
        if alive:
            run = self.choose.choice(alive)
            self.world.runs[run].over = True
            self.world.send(ev.RunEnded(run))
            self.world.flush()
            assert not any(key[0] == run and where for key, (_, where) in self.world.outstanding.items())
            assert not any(held[0] == run for w in self.world.workers.values() for held in w.holds)
            self.world.drop(run)
            self.world.runs[run].failed = True  # from now on not even a release may mention it

    def wait(self) -> None:
        until = self.world.now + self.choose.choice((0.1, 1.0, 5.0))
        while self.world.wake <= until:
            self.world.now, self.world.wake = self.world.wake, float("inf")
            self.world.send(ev.Tick())
        self.world.now = until

    # ---- new nodes

    def nodes(self, run: str) -> tuple[Node, ...]:
        live = self.world.runs[run]
        made: list[Node] = []
        for _ in range(self.choose.randint(4, 14)):
            made.append(self.node([*live.nodes.values(), *made]))
        live.nodes |= {node.id: node for node in made}
        return tuple(made)

    def node(self, before: list[Node]) -> Node:
        choose = self.choose
        kind, model = choose.choice(KINDS), choose.choice("aab")
        contexts = [
            n for n in before if isinstance(n.op, (Prefill, Decode)) and engine_of(n.op).model == model
        ]
        others = choose.sample(before, min(len(before), choose.randint(0, 2)))
        args = {f"x{index}": Value(node.id, 1) for index, node in enumerate(others)}
        if kind in ("prefill", "decode", "score"):
            if contexts:
                args["kv"] = Value(choose.choice(contexts).id)
            elif kind != "prefill":
                kind = "prefill"
            if kind != "prefill":
                args = {"kv": args["kv"]}
        timeout_s = choose.choice((None, None, 3.0)) if kind not in ("format", "map") else None
        return self.world.make(kind, args, Policy(timeout_s, choose.choice((3, 3, 3, 1)), 0.5), model)

    def known(self, run: str, nodes: Iterable[Node]) -> dict[Value, Content | None]:
        """New nodes whose results are those of earlier work."""
        kinds = (Prefill, Decode, Score, Embed, Format)
        found = [n.id for n in nodes if isinstance(n.op, kinds) and self.choose.random() < 0.1]
        self.world.runs[run].done.update(found)
        written = FixedContent(blocks_of(run))
        return {Value(node, output): (None, written)[output] for node in found for output in (0, 1)}

    def forecasts(self, nodes: Iterable[Node]) -> dict[int, Forecast]:
        choose = self.choose
        return {
            node.id: Forecast(
                choose.uniform(0, 300),
                choose.choice((0.0, 100.0, 900.0)),
                choose.uniform(0, 900),
                choose.uniform(0, 90) if isinstance(node.op, Decode) else 0.0,
                choose.choice((LATENCY, THROUGHPUT)),
            )
            for node in nodes
            if choose.random() < 0.8
        }

    # ---- what must hold

    def check_capacity(self) -> None:
        """Of what nothing binds, no engine is given more than it can do."""
        for name, worker in self.world.workers.items():
            tasks = [key for key, (_, where) in self.world.outstanding.items() if where == name]
            for spec in worker.offers:
                if spec.capacity and spec.kind != "llm":
                    free = [task for task in tasks if task not in self.world.bound]
                    nodes = [self.world.runs[run].nodes[node] for run, node in free]
                    assert sum(engine_of(n.op).kind == spec.kind for n in nodes) <= spec.capacity

    def settle(self) -> None:
        """With a worker for everything, every run ends."""
        self.world.workers["rescue"] = ModelWorker(engines(2))
        self.world.send(ev.WorkerJoined("rescue", self.world.workers["rescue"].offers))
        for _ in range(10_000):
            if self.world.startable():
                self.world.finish(*self.world.startable()[0])
            elif self.world.wake < float("inf"):
                self.world.now = max(self.world.now, self.world.wake)
                self.world.wake = float("inf")
                self.world.send(ev.Tick())
            else:
                break
        assert not self.world.outstanding
        for run in self.world.runs.values():
            assert run.over or run.done == set(run.nodes), "a run never finished"

    def check_that_nothing_is_left(self) -> None:
        """Once all runs are over, the books of every engine are empty."""
        for name in self.world.runs:
            self.world.send(ev.RunEnded(name))
        for worker in self.world.scheduler._dispatcher.workers.values():
            assert not worker.tasks
            for engine in worker.engines:
                assert (engine.active, engine.writers, engine.in_use, engine.idle) == (0, 0, {}, {})
                books = (engine.load_ms, engine.prefill_ms, engine.context_tokens, engine.kv)
                assert books == pytest.approx((0, 0, 0, 0), abs=1e-6)
        for pool in self.world.scheduler._dispatcher._pools.values():
            assert (pool.load_ms, pool.active, pool.kv) == pytest.approx((0, 0, 0), abs=1e-6)

    def check_that_it_can_be_repeated(self) -> None:
        """The same events at the same times give the same actions."""
        replayed = Scheduler(self.world.policies, grace_s=GRACE_S)
        for events, now, actions in self.world.history:
            assert replayed.handle(*events, now=now) == actions


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32))
def test_any_history(seed: int) -> None:
    chaos = Chaos(seed)
    for _ in range(70):
        chaos.step()
    chaos.settle()
    chaos.check_that_nothing_is_left()
    chaos.check_that_it_can_be_repeated()


INSTANT = ModelCosts((PrefillPoint(1, 0, 1e-9),), (DecodePoint(1, 1, 1e-9),))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_where_there_is_room_it_does_not_matter_whether_events_come_together(seed: int) -> None:
    """On one worker that takes all, the same can run after each message, seen whole or event by event.

    What is handed out besides, and waits for others, may differ: other fragments are made of what is ready.
    """
    together, one_by_one = (Chaos(seed) for _ in range(2))
    for chaos in (together, one_by_one):
        chaos.lose()
        chaos.lose()
        chaos.world.scheduler = Scheduler(replace(chaos.world.policies, admission="everybody"))
        offers = tuple(replace(spec, costs=INSTANT, kv_slots=0) for spec in engines(0))
        chaos.world.workers["all"] = ModelWorker(offers)
        chaos.world.send(ev.WorkerJoined("all", offers))
    for _ in range(12):
        for chaos in (together, one_by_one):
            finished = sorted(chaos.world.startable())
            chaos.world.message = [] if chaos is together else None
            for task in finished:
                chaos.world.finish(*task)
            chaos.start()
            chaos.world.flush()
        assert sorted(together.world.startable()) == sorted(one_by_one.world.startable())
