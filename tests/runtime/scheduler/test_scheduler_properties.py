"""The scheduler against a model world: random graphs, workers that come and go, failures, cancellations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from weft.graph.ir import NO_POLICY, Graph, Node, Policy, Value
from weft.graph.ops.base import Op
from weft.graph.ops.common import Embed, Format, Forward, Input, Search, Tool
from weft.graph.ops.control import Map
from weft.graph.ops.primitive import Decode, Prefill, Score
from weft.graph.types import TEXT
from weft.runtime.scheduler import actions as act
from weft.runtime.scheduler import events as ev
from weft.runtime.scheduler.faults import Fault, repeatable
from weft.runtime.scheduler.scheduler import Scheduler
from weft.runtime.scheduler.state import EngineKey, engine_of

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


def engines(capacity: int, models: Iterable[str] = ("a", "b")) -> tuple[ev.EngineSpec, ...]:
    llms = tuple(ev.EngineSpec("llm", model, capacity) for model in models)
    rest = (("embed", "hash"), ("index", ""), ("tool", "t"))
    return llms + tuple(ev.EngineSpec(kind, model, capacity) for kind, model in rest)


class World:
    """Performs the scheduler's actions and checks each of them."""

    def __init__(self) -> None:
        self.scheduler = Scheduler(grace_s=GRACE_S)
        self.now = 0.0
        self.wake = float("inf")
        self.runs: dict[str, ModelRun] = {}
        self.workers: dict[str, ModelWorker] = {}
        self.outstanding: dict[tuple[str, int], tuple[int, str]] = {}  # attempt, worker ("" for here)
        self.history: list[tuple[ev.Event, float, list[act.Action]]] = []
        self.next_node = 0

    # ---- events

    def send(self, event: ev.Event) -> None:
        actions = self.scheduler.handle(event, self.now)
        self.history.append((event, self.now, list(actions)))
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
            self.send(ev.Expanded(run, node, (fresh, live.nodes[node])))
        else:
            self.send(ev.TaskDone(run, node, attempt))

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
            "prefill": Prefill(model, ()),
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
        if isinstance(action, act.WakeAt):
            assert action.time < self.wake
            self.wake = action.time
            return
        live = self.runs[action.run]
        ending = isinstance(action, (act.CancelTasks, act.Release)) and not live.failed
        assert ending or not live.over, f"{action} after the end of its run"
        match action:
            case act.Dispatch():
                self.dispatch(live, action)
            case act.Push(worker, run, values):
                waiting = [key for key, (_, where) in self.outstanding.items() if where == worker]
                wanted = {v for r, n in waiting if r == run for v in live.nodes[n].args.values()}
                assert all(value.node in live.done and value in wanted for value in values)
                self.workers[worker].holds |= {(run, value) for value in values}
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
                        del self.outstanding[key]
            case act.Release(worker, run, values):
                self.release(live, worker, run, values)
            case act.FailRun(run, fault):
                assert fault.message
                live.over = live.failed = True
                self.drop(run)

    def dispatch(self, live: ModelRun, action: act.Dispatch) -> None:
        worker = self.workers[action.worker]
        together = {node for node, _ in action.tasks}
        for index, (number, attempt) in enumerate(action.tasks):
            node = live.nodes[number]
            assert worker.offers_engine(engine_of(node.op))
            if index == 0:
                self.check_ready(live, number)
                self.check_home(live, node, worker)
            elif node.args["kv"].node not in live.done:
                assert node.args["kv"].node in together, (
                    "a continuation without the context that it continues"
                )
            worker.holds |= {(action.run, v) for v in node.args.values() if v.node in live.done}
            self.begin(action.run, number, attempt, action.worker)

    def begin(self, run: str, node: int, attempt: int, worker: str) -> None:
        live = self.runs[run]
        assert node not in live.done
        assert (run, node) not in self.outstanding, "dispatched twice at the same time"
        assert attempt == live.attempts.get(node, 0) + 1
        assert attempt == 1 or repeatable(live.nodes[node]) or live.nodes[node].policy.attempts > 1
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

    def check_home(self, live: ModelRun, node: Node, worker: ModelWorker) -> None:
        """A context stays where it is for as long as that worker lives."""
        holder = live.holders.get(node.args["kv"].node) if "kv" in node.args else None
        if any(alive is holder for alive in self.workers.values()):
            assert holder is worker

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


class Machine(RuleBasedStateMachine):
    """Everything that can happen, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.count = 0

    def nodes(self, data: st.DataObject, run: str) -> tuple[Node, ...]:
        live = self.world.runs[run]
        made: list[Node] = []
        for _ in range(data.draw(st.integers(4, 14))):
            made.append(self.node(data, [*live.nodes.values(), *made]))
        live.nodes |= {node.id: node for node in made}
        return tuple(made)

    def node(self, data: st.DataObject, before: list[Node]) -> Node:
        kind = data.draw(st.sampled_from(KINDS))
        model = data.draw(st.sampled_from("aab"))
        contexts = [
            n for n in before if isinstance(n.op, (Prefill, Decode)) and engine_of(n.op).model == model
        ]
        others = data.draw(st.lists(st.sampled_from(before), max_size=2, unique_by=id)) if before else []
        args = {f"x{index}": Value(node.id, 1) for index, node in enumerate(others)}
        if kind in ("prefill", "decode", "score"):
            if contexts:
                args["kv"] = Value(data.draw(st.sampled_from(contexts)).id)
            elif kind != "prefill":
                kind = "prefill"
            if kind != "prefill":
                args = {"kv": args["kv"]}
        attempts = data.draw(st.sampled_from((3, 3, 3, 1)))
        timeout_s = data.draw(st.sampled_from((None, None, 3.0)))
        policy = Policy(timeout_s if kind not in ("format", "map") else None, attempts, 0.5)
        return self.world.make(kind, args, policy, model)

    @rule(data=st.data(), priority=st.integers(0, 1), grows=st.booleans())
    def start_run(self, data: st.DataObject, priority: int, grows: bool) -> None:
        self.count += 1
        run = f"r{self.count}"
        self.world.runs[run] = ModelRun(grows)
        given = Node(0, Input("x"))
        self.world.runs[run].nodes[0] = given
        nodes = (given, *self.nodes(data, run))
        self.world.send(ev.RunStarted(run, priority, grows))
        self.world.send(ev.NodesAdded(run, nodes))
        self.world.runs[run].done.add(0)
        self.world.send(ev.ValuesKnown(run, (Value(0),)))

    @precondition(lambda self: any(r.grows and not r.over for r in self.world.runs.values()))
    @rule(data=st.data())
    def grow(self, data: st.DataObject) -> None:
        growing = [name for name, r in self.world.runs.items() if r.grows and not r.over]
        run = data.draw(st.sampled_from(growing))
        self.world.send(ev.NodesAdded(run, self.nodes(data, run)))

    @initialize(capacity=st.integers(1, 2))
    def begin_with_two_workers(self, capacity: int) -> None:
        for name in ("w1", "w2"):
            self.world.workers[name] = ModelWorker(engines(capacity))
            self.world.send(ev.WorkerJoined(name, self.world.workers[name].offers))

    @precondition(lambda self: len(self.world.workers) < 3)
    @rule(data=st.data(), capacity=st.integers(0, 2))
    def join(self, data: st.DataObject, capacity: int) -> None:
        name = data.draw(st.sampled_from([w for w in ("w1", "w2", "w3") if w not in self.world.workers]))
        models = data.draw(st.sampled_from(("ab", "a", "b")))
        self.world.workers[name] = ModelWorker(engines(capacity, models))
        self.world.send(ev.WorkerJoined(name, self.world.workers[name].offers))

    @precondition(lambda self: self.world.workers)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        self.world.lose(data.draw(st.sampled_from(sorted(self.world.workers))))

    @precondition(lambda self: self.world.startable())
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        for _ in range(data.draw(st.integers(1, 5))):
            if self.world.startable():
                self.world.finish(*data.draw(st.sampled_from(self.world.startable())))

    @precondition(lambda self: self.world.startable())
    @rule(data=st.data(), retryable=st.sampled_from((True, True, True, False)))
    def fail(self, data: st.DataObject, retryable: bool) -> None:
        self.world.fail(*data.draw(st.sampled_from(self.world.startable())), retryable)

    @precondition(lambda self: self.world.outstanding)
    @rule(data=st.data())
    def report_stale(self, data: st.DataObject) -> None:
        run, node = data.draw(st.sampled_from(sorted(self.world.outstanding)))
        stale = self.world.outstanding[run, node][0] - 1
        before = len(self.world.history)
        self.world.send(ev.TaskDone(run, node, stale))
        assert self.world.history[before][2] == []

    @precondition(lambda self: any(not r.over for r in self.world.runs.values()))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        run = data.draw(st.sampled_from([name for name, r in self.world.runs.items() if not r.over]))
        self.world.runs[run].over = True
        self.world.send(ev.RunEnded(run))
        assert not any(key[0] == run and worker for key, (_, worker) in self.world.outstanding.items())
        assert not any(held[0] == run for w in self.world.workers.values() for held in w.holds)
        self.world.drop(run)
        self.world.runs[run].failed = True  # from now on not even a release may mention it

    @rule(seconds=st.sampled_from((0.1, 1.0, 5.0)))
    def wait(self, seconds: float) -> None:
        until = self.world.now + seconds
        while self.world.wake <= until:
            self.world.now, self.world.wake = self.world.wake, float("inf")
            self.world.send(ev.Tick())
        self.world.now = until

    @invariant()
    def capacity_is_kept_where_nothing_binds(self) -> None:
        for name, worker in self.world.workers.items():
            tasks = [key for key, (_, where) in self.world.outstanding.items() if where == name]
            for spec in worker.offers:
                if spec.capacity and spec.kind != "llm":
                    nodes = [self.world.runs[run].nodes[node] for run, node in tasks]
                    assert sum(engine_of(n.op).kind == spec.kind for n in nodes) <= spec.capacity

    def teardown(self) -> None:
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
        replayed = Scheduler(grace_s=GRACE_S)
        for event, now, actions in self.world.history:
            assert replayed.handle(event, now) == actions


Machine.TestCase.settings = settings(
    max_examples=50,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
test_any_history = Machine.TestCase
