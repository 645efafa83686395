"""The scheduler: `handle(event, now) -> actions`, and nothing else.

Two tiers, as in Teola (arXiv:2407.00326, section 5): each live run turns completions into ready primitives by
counting the operands that are still missing, and a queue per kind of engine turns ready primitives into
fragments on workers. The same events at the same times give the same actions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Final, TypeVar

from weft.graph.ir import Value
from weft.graph.ops.common import Input, Tool

from .actions import (
    Action,
    AskClient,
    CancelTasks,
    Dispatch,
    Evaluate,
    Expand,
    FailRun,
    Push,
    Release,
    WakeAt,
)
from .batching import BATCHING, ReadyQueue
from .events import (
    Event,
    Expanded,
    NodesAdded,
    RunEnded,
    RunStarted,
    TaskDone,
    TaskFailed,
    Tick,
    ValuesKnown,
    WorkerJoined,
    WorkerLost,
)
from .faults import Fault, after_failure, after_loss, blame, nobody_offers, timed_out
from .fragments import fragment
from .placement import PLACEMENT, Candidate
from .state import EngineKey, EngineState, LiveNode, LiveRun, Phase, WorkerState
from .timers import Timers

__all__ = ["Scheduler"]

_REMEMBERED_LOSSES: Final = 32

P = TypeVar("P")
_Timer = tuple[LiveNode, int] | EngineKey  # an attempt's back-off or timeout; a queue without workers


class Scheduler:
    """Decides what runs where and when.

    `batching` and `placement` name policies. `grace_s`: how long primitives wait for a worker of their kind
    to join when there is none, before their run fails.
    """

    def __init__(
        self, *, batching: str = "fifo", placement: str = "least_loaded", grace_s: float = 4.0
    ) -> None:
        self._batching = _policy("batching", batching, BATCHING)
        self._placement = _policy("placement", placement, PLACEMENT)()
        self.grace_s = grace_s
        self._workers: dict[str, WorkerState] = {}
        self._joined = 0
        self._lost: deque[tuple[WorkerState, str]] = deque(maxlen=_REMEMBERED_LOSSES)
        self._runs: dict[str, LiveRun] = {}
        self._queues: dict[EngineKey, ReadyQueue] = {}
        self._orphaned: dict[EngineKey, float] = {}  # queues without workers, and how long they may be
        self._timers: Timers[_Timer] = Timers()
        self._now = 0.0
        self._actions: list[Action] = []

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take in what happened at `now` (monotonic seconds) and say what to do, in order.

        Events of runs that are over, and reports of attempts that are no longer current, change nothing.
        """
        self._now, self._actions = now, []
        self._reduce(event)
        for key in self._queues:
            self._drain(key)
        time = self._timers.announcement()
        if time is not None:
            self._actions.append(WakeAt(time))
        return self._actions

    def _reduce(self, event: Event) -> None:
        match event:
            case WorkerJoined():
                self._worker_joined(event)
            case WorkerLost(worker=worker, reason=reason):
                self._worker_lost(worker, reason)
            case RunStarted(run=run, priority=priority, grows=grows):
                self._runs[run] = LiveRun(run, priority, grows)
            case Tick():
                self._tick()
            case _ if event.run in self._runs:
                self._reduce_run(self._runs[event.run], event)
            case _:
                pass  # the run is over

    def _reduce_run(
        self, run: LiveRun, event: NodesAdded | ValuesKnown | TaskDone | TaskFailed | Expanded | RunEnded
    ) -> None:
        match event:
            case NodesAdded(nodes=nodes) | Expanded(nodes=nodes):
                self._start_ready(run.add(nodes))
            case ValuesKnown(values=values):
                self._values_known(run, values)
            case TaskDone(node=node, attempt=attempt):
                live = _current(run, node, attempt)
                if live:
                    self._complete(live)
            case TaskFailed(node=node, attempt=attempt, fault=fault):
                live = _current(run, node, attempt)
                if live:
                    self._fail(live, fault)
            case RunEnded():
                self._forget(run)

    # ---- nodes that become ready, and nodes that are done

    def _start_ready(self, nodes: Iterable[LiveNode]) -> None:
        for live in nodes:
            if live.waiting == 0 and live.phase is Phase.WAITING:
                self._start(live)

    def _start(self, live: LiveNode) -> None:
        match live.node.op:
            case Input():
                pass  # ValuesKnown will tell
            case Tool(where="client"):
                live.begin()
                self._activate(live)
                self._actions.append(AskClient(live.run.id, live.node.id, live.attempt))
            case op if op.kind == "host":
                live.begin()
                self._actions.append(Evaluate(live.run.id, live.node.id, live.attempt))
            case op if op.kind == "control":
                live.begin()
                self._actions.append(Expand(live.run.id, live.node.id, live.attempt))
            case _:
                self._place_or_queue(live)

    def _values_known(self, run: LiveRun, values: Iterable[Value]) -> None:
        for node in {value.node: None for value in values}:
            if run.nodes[node].phase is not Phase.DONE:
                self._complete(run.nodes[node])

    def _complete(self, live: LiveNode) -> None:
        consumers = live.run.complete(live)
        self._push(live, consumers)
        for consumer in consumers:
            if consumer.waiting == 0 and consumer.phase is Phase.RUNNING:
                self._activate(consumer)
        self._start_ready(consumers)
        self._release_dead(live)

    def _push(self, live: LiveNode, consumers: Iterable[LiveNode]) -> None:
        """Send what `live` made to the workers elsewhere whose tasks wait for it."""
        wanted: dict[str, dict[Value, None]] = {}
        for consumer in consumers:
            if consumer.phase is Phase.RUNNING and consumer.worker not in (None, live.worker):
                assert consumer.worker is not None
                wanted.setdefault(consumer.worker.id, {}).update(
                    dict.fromkeys(live.run.operands(consumer, live))
                )
        self._actions += [Push(worker, live.run.id, tuple(values)) for worker, values in wanted.items()]

    def _release_dead(self, live: LiveNode) -> None:
        dead: dict[str, list[Value]] = {}
        for maker in live.run.dead_contexts(live):
            if maker.worker and maker.worker.alive and maker.phase is Phase.DONE:
                dead.setdefault(maker.worker.id, []).append(Value(maker.node.id))
        self._actions += [Release(worker, live.run.id, tuple(values)) for worker, values in dead.items()]

    # ---- placement

    def _place_or_queue(self, live: LiveNode) -> None:
        """KV contexts stay where they are: who continues one goes there, room or not; all others queue."""
        home = _home(live)
        if home:
            self._dispatch(live, home)
            return
        key = live.key
        if key not in self._queues:
            self._queues[key] = ReadyQueue(self._batching())
        self._queues[key].push(live)

    def _drain(self, key: EngineKey) -> None:
        queue = self._queues[key]
        if queue.peek() is None:
            return
        offers = self._offers(key)
        if not offers:
            self._orphan(key)
        while queue.peek() is not None:
            candidates = [candidate for candidate in offers if candidate.engine.has_room]
            if not candidates:
                return
            self._dispatch(queue.pop(), self._placement.choose(candidates))

    def _offers(self, key: EngineKey) -> list[Candidate]:
        found = ((worker, worker.engine(key)) for worker in self._workers.values())
        return [Candidate(worker, engine) for worker, engine in found if engine]

    def _dispatch(self, root: LiveNode, worker: WorkerState) -> None:
        members = fragment(root, worker)
        for live in members:
            live.begin(worker)
            if live.waiting == 0:
                self._activate(live)
        tasks = tuple((live.node.id, live.attempt) for live in members)
        self._actions.append(Dispatch(worker.id, root.run.id, tasks))

    def _activate(self, live: LiveNode) -> None:
        """All operands are known: from now on the attempt's time counts."""
        live.activate()
        timeout_s = live.node.policy.timeout_s
        if timeout_s is not None:
            self._timers.set(self._now + timeout_s, (live, live.attempt))

    # ---- time

    def _tick(self) -> None:
        for timer in self._timers.due(self._now):
            if isinstance(timer, EngineKey):
                self._orphan_expired(timer)
                continue
            live, attempt = timer
            if live.attempt != attempt:
                continue
            if live.phase is Phase.RUNNING:
                self._time_out(live)
            elif live.phase is Phase.RETRYING:
                live.phase = Phase.WAITING
                self._start_ready([live])

    def _time_out(self, live: LiveNode) -> None:
        if live.worker:
            self._actions.append(CancelTasks(live.worker.id, live.run.id, (live.node.id,)))
        self._fail(live, timed_out(live.node))

    # ---- failures and losses

    def _fail(self, live: LiveNode, fault: Fault) -> None:
        live.failures += 1
        delay_s = after_failure(live.node, fault, live.failures)
        if delay_s is None:
            worker = live.worker.id if live.worker else ""
            self._fail_run(live.run, blame(fault, live.node, worker))
            return
        live.leave(Phase.RETRYING)
        self._timers.set(self._now + delay_s, (live, live.attempt))

    def _fail_run(self, run: LiveRun, fault: Fault) -> None:
        self._forget(run)
        self._actions.append(FailRun(run.id, fault))

    def _forget(self, run: LiveRun) -> None:
        del self._runs[run.id]
        for worker in run.workers.values():
            if not worker.alive:
                continue
            if any(owner == run.id for owner, _ in worker.tasks):
                self._actions.append(CancelTasks(worker.id, run.id))
            self._actions.append(Release(worker.id, run.id))
        for live in run.nodes.values():
            live.leave(Phase.DONE)

    def _worker_joined(self, event: WorkerJoined) -> None:
        if event.worker in self._workers:
            self._worker_lost(event.worker, "it joined anew")
        self._joined += 1
        engines = tuple(EngineState(spec) for spec in event.engines)
        worker = WorkerState(event.worker, self._joined, engines)
        self._workers[event.worker] = worker
        self._orphaned = {key: until for key, until in self._orphaned.items() if not worker.engine(key)}

    def _worker_lost(self, worker_id: str, reason: str) -> None:
        worker = self._workers.pop(worker_id, None)
        if worker is None:
            return
        worker.alive = False
        self._lost.append((worker, reason))
        tasks = list(worker.tasks.values())
        for live in tasks:
            if live.engine:
                self._count_loss(live, reason)
        for live in tasks:
            if live.phase is Phase.RUNNING:
                live.leave(Phase.WAITING)
        self._start_ready(tasks)

    def _count_loss(self, live: LiveNode, reason: str) -> None:
        assert live.worker is not None
        live.losses += 1
        fault = after_loss(live.node, live.worker.id, reason, live.losses)
        if fault and live.run.id in self._runs:
            self._fail_run(live.run, fault)

    def _orphan(self, key: EngineKey) -> None:
        if key not in self._orphaned:
            self._orphaned[key] = self._now + self.grace_s
            self._timers.set(self._orphaned[key], key)

    def _orphan_expired(self, key: EngineKey) -> None:
        """Nobody came: fail every run that waits for such a worker."""
        if self._orphaned.get(key, self._now + 1) > self._now:
            return
        del self._orphaned[key]
        lost = next(((w.id, reason) for w, reason in reversed(self._lost) if w.engine(key)), None)
        for live in list(self._queues[key]):
            if live.run.id in self._runs:
                self._fail_run(live.run, nobody_offers(live.node, str(key), self.grace_s, lost))


def _home(live: LiveNode) -> WorkerState | None:
    """The living worker that an LLM primitive is bound to.

    That which holds the context it continues, or that which runs what continues it after a failed attempt.
    """
    if live.key.kind != "llm":
        return None
    source = live.node.args.get("kv")
    holder = live.run.nodes[source.node].worker if source is not None else None
    return next((w for w in (holder, live.worker) if w and w.alive), None)


def _current(run: LiveRun, node: int, attempt: int) -> LiveNode | None:
    """The node, if this attempt of it is under way."""
    live = run.nodes.get(node)
    return live if live and live.phase is Phase.RUNNING and live.attempt == attempt else None


def _policy(what: str, name: str, known: Mapping[str, P]) -> P:
    if name not in known:
        raise ValueError(f"unknown {what} policy {name!r}; known: {', '.join(map(repr, sorted(known)))}")
    return known[name]
