"""A model world: what a scheduler has been told and has done, and what must hold of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from weft.graph.ir import NO_POLICY, Graph, Node, Policy, Value
from weft.graph.ops.base import Op
from weft.graph.ops.common import Embed, Format, Forward, Input, Search, Tool
from weft.graph.ops.control import Map
from weft.graph.ops.primitive import Decode, Prefill, Score
from weft.graph.prompt import Fixed
from weft.graph.types import TEXT
from weft.runtime.scheduler import actions as act
from weft.runtime.scheduler import events as ev
from weft.runtime.scheduler.faults import Fault, repeatable
from weft.runtime.scheduler.policies import Policies
from weft.runtime.scheduler.prefixes import FixedContent, blocks_of
from weft.runtime.scheduler.primitive import EngineKey, describe, engine_of
from weft.runtime.scheduler.scheduler import Scheduler

GRACE_S = 4.0
BODY = Graph((Node(0, Input("item")),), (Value(0),))


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
    lacks: set[int] = field(default_factory=set)  # nodes that have failed for good


@dataclass
class ModelWorker:
    """A living worker: what it has been given or has made."""

    offers: tuple[ev.EngineSpec, ...]
    holds: set[tuple[str, Value]] = field(default_factory=set)

    def offers_engine(self, key: EngineKey) -> bool:
        return any(spec.kind == key.kind and key.model in ("", spec.model) for spec in self.offers)


def engines(
    capacity: int, models: Iterable[str] = "ab", batch: int = 0, kv_slots: int = 3000
) -> tuple[ev.EngineSpec, ...]:
    llm = ev.EngineSpec(
        "llm", "", capacity, kv_slots=kv_slots, kv_layout="float32", kv_token_bytes=100, shares_prefixes=True
    )
    llms = tuple(replace(llm, model=model) for model in models)
    rest = (("embed", "hash"), ("index", ""), ("tool", "t"))
    return llms + tuple(ev.EngineSpec(kind, model, capacity, batch, 40.0 * batch) for kind, model in rest)


class World:
    """Performs the scheduler's actions and checks each of them."""

    def __init__(self, policies: Policies) -> None:
        self.policies = replace(policies, grace_s=GRACE_S)
        self.scheduler = Scheduler(self.policies)
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
        self.lacking: Callable[[str], None] = self.end  # what follows when a node has failed for good

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
        self.ending = set()
        for run, live in list(self.runs.items()):
            if live.lacks and not live.over:
                self.lacking(run)

    def end(self, run: str) -> None:
        """Nobody wants a run any more."""
        self.runs[run].over = True
        self.send(ev.RunEnded(run))
        self.flush()
        assert not any(key[0] == run and where for key, (_, where) in self.outstanding.items())
        assert not any(held[0] == run for worker in self.workers.values() for held in worker.holds)
        self.drop(run)
        self.runs[run].failed = True  # from now on not even a release may mention it

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
            case act.Dispatch(worker, fragments, sources, keeps):
                assert all(source.worker in self.workers.keys() - {worker} for source in sources)
                for keep in keeps:
                    assert keep.expires > self.now
                    assert not self.runs[keep.run].over or keep.run in self.ending
                    assert (keep.run, Value(keep.node)) in self.workers[worker].holds
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
            case act.NodeFailed(run, node, fault):
                assert fault.message
                self.outstanding.pop((run, node), None)  # it is out of time
                live.lacks.add(node)

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
                    kv = node.args.get("kv")
                    same = engine_of(live.nodes[value.node].op) == engine_of(node.op)
                    assert same
                    assert kv in (None, Value(value.node))
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
