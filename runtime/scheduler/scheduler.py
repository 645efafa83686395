"""The scheduler: `handle(event, now) -> actions`, and nothing else.

Two tiers, as in Teola (arXiv:2407.00326, section 5): each live run turns completions into ready primitives by
counting the operands that are still missing, and a queue per kind of engine turns ready primitives into
fragments on workers. The same events at the same times give the same actions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from weft.graph.ir import Value

from .actions import (
    Action,
    AskClient,
    CancelTasks,
    Evaluate,
    Expand,
    NodeFailed,
    Release,
    WakeAt,
)
from .dispatch import Backlog, Dispatcher, Timer
from .events import (
    Event,
    Expanded,
    NodesAdded,
    NodesShelved,
    NodesTakenUp,
    PromptRead,
    RunEnded,
    RunStarted,
    TaskDone,
    TaskFailed,
    Tick,
    ValuesKnown,
    WorkerJoined,
    WorkerLost,
)
from .faults import Fault, after_failure, after_loss, blame, nobody_offers, repeatable, timed_out
from .policies import Policies
from .prefixes import Content
from .primitive import EngineKey, Role
from .state import DONE, RETRYING, RUNNING, SHELVED, WAITING, LiveNode, LiveRun
from .timers import Timers

__all__ = ["Scheduler"]


class Scheduler:
    """Decides what runs where and when."""

    def __init__(self, policies: Policies | None = None) -> None:
        policies = policies or Policies()
        self.grace_s = policies.grace_s
        self._runs: dict[str, LiveRun] = {}
        self._timers: Timers[Timer] = Timers(_matters)
        self._dispatcher = Dispatcher(policies, self._timers)
        self._residency = self._dispatcher.residency
        self._advice = self._dispatcher.advice
        self._now = 0.0
        self._actions: list[Action] = []
        self._handlers: Final[dict[type, Callable[[Any], None]]] = {
            WorkerJoined: self._worker_joined,
            WorkerLost: self._worker_lost,
            RunStarted: self._run_started,
            NodesAdded: self._nodes_added,
            NodesShelved: self._nodes_shelved,
            NodesTakenUp: self._nodes_taken_up,
            Expanded: self._expanded,
            ValuesKnown: self._values_known,
            PromptRead: self._prompt_read,
            TaskDone: self._task_done,
            TaskFailed: self._task_failed,
            RunEnded: self._run_ended,
            Tick: self._tick,
        }

    def handle(self, *events: Event, now: float) -> list[Action]:
        """Take in what has happened by `now` (monotonic seconds), and say what to do, in order.

        Of several events each is taken in before anything is handed out: so what a worker reports in one
        message is paid for once, and what has become ready together can be computed together. That a worker
        has joined or is lost comes alone. Events of runs that are over, and reports of attempts that are no
        longer current, change nothing.
        """
        self._now, self._actions = now, []
        for event in events:
            self._handlers[type(event)](event)
        self._actions += self._dispatcher.drain(now)
        time = self._timers.announcement()
        if time is not None:
            self._actions.append(WakeAt(time))
        return self._actions

    # ---- for those who look on

    def head_start(self, run: str, node: int) -> float:
        """The seconds that a primitive, handed out now, counts as having waited when it comes to its engine.

        So that engines serve what has come to them in the order of the priority policy; negative for what is
        to be overtaken by what comes a bit later. 0 for runs that are over.
        """
        live = self._runs.get(run)
        return 0.0 if live is None else self._dispatcher.head_start(live.nodes[node], self._now)

    def idle(self, kind: str, run: str) -> bool:
        """Whether the engines of a kind have time for what may turn out to be of no use to a run."""
        return self._dispatcher.idle(kind, run)

    def backlogs(self) -> list[Backlog]:
        """What is ready and has not been handed out."""
        return self._dispatcher.backlogs()

    def in_flight(self) -> dict[str, int]:
        """How many primitives each worker has been given and has not done."""
        return {worker.id: len(worker.tasks) for worker in self._dispatcher.workers.values()}

    # ---- runs

    def _run_started(self, event: RunStarted) -> None:
        self._runs[event.run] = LiveRun(
            event.run, self._now, event.priority, event.grows, event.namespace, event.deadline
        )

    def _nodes_added(self, event: NodesAdded) -> None:
        run = self._runs.get(event.run)
        if run is not None:
            run.revise(event.revised)
            self._expanded(event)

    def _expanded(self, event: NodesAdded | Expanded) -> None:
        run = self._runs.get(event.run)
        if run is not None:
            added = run.add(event.nodes)
            self._learn(run, event.known)
            self._start_ready(added)

    def _nodes_shelved(self, event: NodesShelved) -> None:
        run = self._runs.get(event.run)
        if run is None:
            return
        stopped: dict[str, list[int]] = {}
        for live in map(run.nodes.__getitem__, event.nodes):
            if live.phase is DONE or (live.phase is RUNNING and live.primitive.role is Role.CONTROL):
                continue  # a map that has begun only waits for its bodies
            if live.phase is RUNNING and live.engine is not None:
                stopped.setdefault(live.engine.worker.id, []).append(live.number)
            self._shelve(live)
        if stopped:
            self._actions += self._dispatcher.dispatches(self._now)  # what is stopped has been sent before
        self._actions += (CancelTasks(worker, run.id, tuple(nodes)) for worker, nodes in stopped.items())

    def _shelve(self, live: LiveNode) -> None:
        live.run.shelve(live)
        self._residency.drop(live)
        self._residency.end_turn(live, self._now)

    def _nodes_taken_up(self, event: NodesTakenUp) -> None:
        run = self._runs.get(event.run)
        if run is not None:
            shelved = [live for number in event.nodes if (live := run.nodes[number]).phase is SHELVED]
            for live in shelved:
                run.take_up(live)
            self._start_ready(shelved)

    def _run_ended(self, event: RunEnded) -> None:
        run = self._runs.get(event.run)
        if run is not None:
            self._forget(run)

    def _forget(self, run: LiveRun) -> None:
        del self._runs[run.id]
        unfinished = [live for live in run.nodes.values() if live.phase is not DONE]
        running = (live.engine for live in unfinished if live.phase is RUNNING)
        busy = {engine.worker for engine in running if engine}
        self._actions += self._dispatcher.dispatches(self._now)  # nothing of the run may follow its end
        for worker in {engine.worker: None for engine in run.holdings}:
            if worker.alive:
                if worker in busy:
                    self._actions.append(CancelTasks(worker.id, run.id))
                self._actions.append(Release(worker.id, run.id))
        for live in unfinished:
            live.leave(DONE)
        self._advice.forget(run)
        self._residency.forget(run)
        run.let_go()

    # ---- nodes that become ready, and nodes that are done

    def _start_ready(self, nodes: Iterable[LiveNode]) -> None:
        for live in nodes:
            if live.phase is WAITING and live.waiting <= 1:
                if live.waiting == 0:
                    self._start(live)
                else:
                    self._follow(live)

    def _start(self, live: LiveNode) -> None:
        run, node = live.run.id, live.number
        match live.primitive.role:
            case Role.ENGINE:
                self._dispatcher.submit(live, self._now)
            case Role.HOST:
                live.begin()
                self._actions.append(Evaluate(run, node, live.attempt))
            case Role.CONTROL:
                live.begin()
                self._actions.append(Expand(run, node, live.attempt))
            case Role.CLIENT:
                live.begin()
                self._dispatcher.call(live, self._now)
                self._dispatcher.activate(live, self._now)
                self._actions.append(AskClient(run, node, live.attempt))
            case Role.INPUT:
                pass  # ValuesKnown will tell

    def _follow(self, live: LiveNode) -> None:
        """Hand out what waits for nothing but what an engine is making, and need not be asked for elsewhere.

        That is what continues a context, which is there in time, and a prompt that takes a text of the model
        that is to read it.
        """
        if live.primitive.key.kind != "llm":
            return
        nodes, context = live.run.nodes, live.primitive.context
        if context is None:
            maker = next(nodes[p] for p in live.primitive.producers if nodes[p].phase is not DONE)
        else:
            maker = nodes[context]
        if maker.phase is RUNNING and maker.engine is not None and maker.key == live.key:
            self._dispatcher.attach(live, maker.engine, self._now)

    def _values_known(self, event: ValuesKnown) -> None:
        run = self._runs.get(event.run)
        if run is not None:
            self._learn(run, event.values)

    def _learn(self, run: LiveRun, values: Mapping[Value, Content | None]) -> None:
        for value, content in values.items():
            if content is not None:
                run.contents[value] = content
        lives = [run.nodes[node] for node in {value.node: None for value in values}]
        known = [live for live in lives if live.phase is not DONE]
        for live in known:
            if live.primitive.makes_context:
                self._residency.known(live)
        self._complete(known)

    def _prompt_read(self, event: PromptRead) -> None:
        live = self._current(event)
        if live is not None and live.engine is not None:
            live.engine.has_read(live)

    def _task_done(self, event: TaskDone) -> None:
        live = self._current(event)
        if live is not None:
            for output, content in enumerate(event.contents):
                if content is not None:
                    live.run.contents[event.node, output] = content
            kind = live.primitive.key.kind
            consumers: Sequence[LiveNode] = ()
            if kind == "llm":
                self._residency.done(live, event.usage)
                consumers = tuple(live.consumers)
                if live.primitive.makes_context:
                    live.run.latest = live
                for consumer in consumers:
                    live.read = live.read or consumer.primitive.context != event.node
            elif kind == "tool":
                self._dispatcher.answered(live, self._now)
            self._complete([live])
            if consumers:
                self._advice.made(live, consumers, self._now)
            self._residency.end_turn(live, self._now)

    def _complete(self, lives: Sequence[LiveNode]) -> None:
        """Nodes are done, all at once: none of them is started on account of another."""
        consumers = [consumer for live in lives for consumer in live.run.complete(live)]
        for consumer in consumers:
            if consumer.waiting == 0 and consumer.phase is RUNNING:
                self._dispatcher.activate(consumer, self._now)
        self._start_ready(consumers)
        for live in lives:
            self._release_dead(live)

    def _release_dead(self, live: LiveNode) -> None:
        makers = live.run.dead_contexts(live)
        if not makers:
            return
        dead: dict[str, list[LiveNode]] = {}
        for maker in makers:
            engine = maker.engine
            self._residency.drop(maker)
            if engine and engine.worker.alive and maker.phase is DONE:
                dead.setdefault(engine.worker.id, []).append(maker)
        for worker, held in dead.items():
            values = tuple([Value(maker.number) for maker in held])
            self._actions.append(Release(worker, live.run.id, values, self._advice.released(held)))

    def _current(self, event: PromptRead | TaskDone | TaskFailed) -> LiveNode | None:
        """The node, if this attempt of it is under way."""
        run = self._runs.get(event.run)
        live = run.nodes.get(event.node) if run is not None else None
        return live if live and live.phase is RUNNING and live.attempt == event.attempt else None

    # ---- time

    def _tick(self, event: Tick) -> None:
        for timer in self._timers.due(self._now):
            if isinstance(timer, EngineKey):
                self._give_up(timer)
                continue
            live, _ = timer
            if not _matters(timer):
                continue
            if live.phase is RUNNING:
                self._time_out(live)
            else:
                live.phase = WAITING
                self._start_ready([live])

    def _time_out(self, live: LiveNode) -> None:
        if live.engine:
            self._cancel(live.engine.worker.id, live)
        self._fail(live, timed_out(live.node))

    # ---- failures and losses

    def _task_failed(self, event: TaskFailed) -> None:
        live = self._current(event)
        if live is not None:
            self._fail(live, event.fault)

    def _fail(self, live: LiveNode, fault: Fault) -> None:
        live.failures += 1
        delay_s = after_failure(live.node, fault, live.failures)
        self._call_back(live)
        if delay_s is None:
            worker = live.engine.worker.id if live.engine else ""
            self._fail_for_good(live, blame(fault, live.node, worker))
            return
        live.leave(RETRYING)
        self._residency.drop(live)
        self._timers.set(self._now + delay_s, (live, live.attempt))

    def _call_back(self, live: LiveNode) -> None:
        """Take back what was handed out to follow on a task that has failed."""
        for follower in live.consumers:
            if follower.phase is RUNNING and follower.engine:
                self._cancel(follower.engine.worker.id, follower)
                follower.leave(WAITING)
                self._residency.drop(follower)
                self._residency.end_turn(follower, self._now)
                self._call_back(follower)

    def _cancel(self, worker: str, live: LiveNode) -> None:
        self._actions += self._dispatcher.dispatches(self._now)  # what is called back has been sent before
        self._actions.append(CancelTasks(worker, live.run.id, (live.number,)))

    def _fail_for_good(self, live: LiveNode, fault: Fault) -> None:
        self._shelve(live)
        self._actions.append(NodeFailed(live.run.id, live.number, fault))

    def _worker_joined(self, event: WorkerJoined) -> None:
        if event.worker in self._dispatcher.workers:
            self._worker_lost(WorkerLost(event.worker, "it joined anew"))
        self._dispatcher.join(event)

    def _worker_lost(self, event: WorkerLost) -> None:
        worker = self._dispatcher.workers.get(event.worker)
        if worker is None:
            return
        self._dispatcher.lose(worker, event.reason)
        tasks = list(worker.tasks)
        for live in tasks:
            if live.phase is RUNNING and _may_have_run(live):
                self._count_loss(live, event.reason)
        for live in tasks:
            if live.phase is RUNNING:
                live.leave(WAITING)
                self._residency.drop(live)
                self._residency.end_turn(live, self._now)
        self._start_ready(tasks)

    def _count_loss(self, live: LiveNode, reason: str) -> None:
        assert live.engine is not None
        live.losses += 1
        fault = after_loss(live.node, live.engine.worker.id, reason, live.losses)
        if fault:
            self._fail_for_good(live, fault)

    def _give_up(self, key: EngineKey) -> None:
        """Nobody came: fail every run that waits for such a worker."""
        lost = self._dispatcher.last_lost(key)
        for live in self._dispatcher.abandoned(key, self._now):
            if live.run.id in self._runs:
                self._fail_for_good(live, nobody_offers(live.node, str(key), self.grace_s, lost))


def _may_have_run(live: LiveNode) -> bool:
    """Whether a task on a lost worker may have begun: even one whose operands are not known here yet."""
    return live.counted or not repeatable(live.node)


def _matters(timer: Timer) -> bool:
    """Whether what comes due is still waited for."""
    if isinstance(timer, EngineKey):
        return True
    live, attempt = timer
    return live.attempt == attempt and live.phase in (RUNNING, RETRYING)
