"""The asyncio shell around the scheduler: it performs actions and turns what happens into events.

Everything here runs in the event loop's thread and never waits; between two calls all is consistent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Final, Protocol

from weft.graph.codec import decode_datum
from weft.graph.errors import GraphError, TooLargeError
from weft.graph.ir import Node, Value
from weft.graph.live import Growth
from weft.graph.ops.control import Fold, Map
from weft.graph.ops.primitive import Upsert
from weft.graph.values import Datum
from weft.proto import worker_pb2
from weft.runtime.scheduler import actions as act
from weft.runtime.scheduler import events as ev
from weft.runtime.scheduler.faults import Fault, blame
from weft.runtime.scheduler.primitive import Primitive
from weft.runtime.scheduler.scheduler import Scheduler

from .contents import content_of
from .faults import decode_fault, fault_of
from .fleet import Fleet
from .giving import Giver
from .run import Run
from .sending import Sender
from .timer import Timer, now
from .trace import CLIENT, ORCHESTRATOR, PERSON
from .turns import Turns
from .workers import WorkerLink, engine_specs, usage_of

__all__ = ["Owner", "Shell"]

_log = logging.getLogger(__name__)

_MESSAGES: Final = 4
"""As many messages as that may what the orchestrator makes of values take: lists go to workers in stages."""


class Owner(Protocol):
    """Who is responsible for the runs."""

    def run_failed(self, run: Run, fault: Fault) -> None:
        """A run cannot go on."""
        ...

    def run_complete(self, run: Run) -> None:
        """Nothing is left to do of a run."""
        ...

    def ask_client(self, run: Run, node: Node, attempt: int) -> None:
        """Have the client of a run call one of its tools, or a person answer."""
        ...


class Shell:
    """Live runs, workers, and the scheduler between them. `max_bytes`: of a message that workers take."""

    def __init__(self, scheduler: Scheduler, fleet: Fleet, owner: Owner, *, max_bytes: int) -> None:
        self.runs: dict[str, Run] = {}
        self._fleet = fleet
        self._owner = owner
        self.scheduler = scheduler
        self._sender = Sender(fleet, self._refused, scheduler.head_start, max_bytes=max_bytes)
        self._most = _MESSAGES * max_bytes
        self._giver = Giver(self.runs, self._guarded, self.stir, most=self._most)
        self._turns = Turns(self.runs, self._begin_bodies, self._go_on)
        self._events: list[ev.Event] = []
        self._busy = False
        self._lacking: dict[str, None] = {}  # runs in which something has failed that nobody needed
        self._timer = Timer(lambda: self.handle(ev.Tick()))

    def close(self) -> None:
        """No more ticks."""
        self._timer.stop()

    def handle(self, *events: ev.Event) -> None:
        """Let the scheduler see events and perform what it wants, until nothing is left to do at once.

        Events that come up meanwhile are queued, and seen together; so nothing here recurses.
        """
        self._events.extend(events)
        if self._busy:
            return
        self._busy = True
        try:
            while self._events:
                seen, self._events = self._events, []
                for action in self.scheduler.handle(*seen, now=now()):
                    self._perform(action)
                while self._lacking:
                    run_id, _ = self._lacking.popitem()
                    if run_id in self.runs:
                        self._do_without(self.runs[run_id])
                if not self._events:
                    self._sender.flush()
        finally:
            self._busy = False

    @contextmanager
    def together(self) -> Iterator[None]:
        """Let the scheduler see the events of a block all at once, at its end."""
        try:
            with self._gathering():
                yield
        finally:
            self.handle()

    @contextmanager
    def _gathering(self) -> Iterator[None]:
        """Only queue the events of a block."""
        outermost, self._busy = not self._busy, True
        try:
            yield
        finally:
            if outermost:
                self._busy = False

    # ---- workers

    def worker_joined(self, link: WorkerLink) -> None:
        """A worker can be given work."""
        self._fleet.add(link)
        self.handle(ev.WorkerJoined(link.id, engine_specs(link.info)))

    def worker_lost(self, link: WorkerLink, reason: str) -> None:
        """A worker is gone; nothing happens for one that was lost before."""
        if self._fleet.get(link.id) is not link:
            return
        self._fleet.remove(link)
        missed = any(run in self.runs for run in link.holds)
        _log.log(logging.WARNING if missed else logging.INFO, "worker %r was lost: %s", link.id, reason)
        self.handle(ev.WorkerLost(link.id, reason))

    def report(self, link: WorkerLink, reports: Iterable[worker_pb2.Report]) -> None:
        """Take what a worker says. What it says about runs and attempts that are over is dropped.

        Where that ends a run, its client is answered before the scheduler hears of it.
        """
        at = now()
        done: Collection[str] = ()  # runs
        try:
            with self._gathering():
                done = self._take(link, reports, at)
                for run_id in done:
                    self._go_on(run_id)
        finally:
            if self.runs.keys() >= {*done}:
                self.handle()
            else:
                asyncio.get_running_loop().call_soon(self.handle)

    def _take(self, link: WorkerLink, reports: Iterable[worker_pb2.Report], at: float) -> Collection[str]:
        """Take in reports that came at a time; the runs of which tasks are done."""
        done: dict[str, None] = {}
        for report in reports:
            match report.WhichOneof("report"):
                case "delta":
                    self._delta(report.delta)
                case "done":
                    run = self._task_done(link, report.done, at - report.age_s)
                    if run is not None:
                        done[run.id] = None
                case "failed":
                    failed = report.failed
                    self.task_failed(failed.run, failed.node, failed.attempt, decode_fault(failed.fault))
                case "status":
                    link.status = report.status
                    self._fleet.update_indexes(link, [index.name for index in report.status.indexes])
                case _:
                    _log.warning("worker %r sent an empty report", link.id)
        return done

    def _delta(self, delta: worker_pb2.Delta) -> None:
        run = self.runs.get(delta.run)
        if run is None or not run.is_current(delta.node, delta.attempt):
            return
        if not delta.text:
            self.handle(ev.PromptRead(delta.run, delta.node, delta.attempt))
            return
        run.told.write(run.node(delta.node), delta.text, now())
        self._guarded(run, delta.node, partial(self._written, run, delta.node, delta.text))

    def _written(self, run: Run, decode: int, text: str) -> None:
        known, grown = run.graph.written(decode, text)
        self._take_in(run, grown, known)

    def _task_done(self, link: WorkerLink, done: worker_pb2.TaskDone, at: float) -> Run | None:
        """Take in the results of a task; its run, if it was under way and they are what it promised."""
        run = self.runs.get(done.run)
        if run is None or not run.is_current(done.node, done.attempt):
            return None
        try:
            results = tuple([decode_datum(message) for message in done.results])
        except GraphError as problem:
            fault = Fault("internal", f"worker {link.id!r} sent a malformed result: {problem}")
            self.task_failed(done.run, done.node, done.attempt, fault)
            return None
        node = run.node(done.node)
        if isinstance(node.op, Upsert):
            self._fleet.update_indexes(link, [node.op.index])
        return run if self._learn(run, node, results, done.timing, at, link) else None

    # ---- tasks, wherever they ran

    def task_done(self, run: Run, node: Node, results: tuple[Datum, ...]) -> None:
        """The current attempt of a node, which no worker ran, has given results."""
        if self._learn(run, node, results, worker_pb2.Timing(), now()):
            self.handle()
            self._go_on(run.id)

    def _learn(
        self,
        run: Run,
        node: Node,
        results: tuple[Datum, ...],
        timing: worker_pb2.Timing,
        at: float,
        link: WorkerLink | None = None,
    ) -> bool:
        """Take in results, which a worker holds now, if one has given them; whether they are as promised.

        The scheduler has yet to `handle` that the task is done.
        """
        attempt = run.attempts[node.id].number
        try:
            values = run.promised(node, results)
        except GraphError as problem:
            self.task_failed(run.id, node.id, attempt, Fault("internal", str(problem)))
            return False
        if link is not None:
            link.holds.setdefault(run.id, set()).update(values)

        def take() -> None:
            run.done(node, values, timing, at)
            found = self._giver.found(run)
            if found:
                self._events.append(ev.ValuesKnown(run.id, found))
            contents = tuple([content_of(result) for result in results])
            usage = usage_of(timing) if node.op.kind == "llm" else None
            self._events.append(ev.TaskDone(run.id, node.id, attempt, contents, usage))
            self._giver.hand_on(run, node.id, results)

        self._guarded(run, node.id, take)
        return run.id in self.runs

    def _go_on(self, run_id: str) -> None:
        """Begin what has become possible in a run, or end it."""
        run = self.runs.get(run_id)
        if run is not None:
            self._turns.advance(run)
            self.settle(run)

    def _refused(self, run: Run, number: int, attempt: int, fault: Fault) -> None:
        self.task_failed(run.id, number, attempt, fault)

    def task_failed(self, run_id: str, number: int, attempt: int, fault: Fault) -> None:
        """An attempt of a node failed; the scheduler decides what follows."""
        run = self.runs.get(run_id)
        if run is None or not run.is_current(number, attempt):
            return
        fault = blame(fault, run.node(number))
        run.ended(run.attempts.pop(number), "failed", now(), worker=fault.worker, fault=fault)
        self.handle(ev.TaskFailed(run_id, number, attempt, fault))

    # ---- results of equal work

    def pass_on(self, run: Run) -> None:
        """A run is over: what others waited for it to compute, they compute themselves."""
        self._giver.ask_again(run.reuse.end())

    def stir(self, run_id: str, number: int) -> None:
        """Let a run, if it is not over, go on with what has been done for a node of it."""
        run = self.runs.get(run_id)
        if run is not None:
            self._guarded(run, number, partial(self._stir, run))

    def _stir(self, run: Run) -> None:
        found = self._giver.found(run)
        if found:
            self.handle(ev.ValuesKnown(run.id, found))
        self._turns.advance(run)
        self.settle(run)

    # ---- graphs that grow

    def grown(self, run: Run, growth: Growth, primitives: tuple[Primitive, ...] | None = None) -> None:
        """Let new nodes run, and those that follow from what they take being known in part already.

        `primitives`: the nodes as the scheduler sees them, if that is known.
        """
        run.add(growth, now())
        if primitives is None:
            primitives, revised = run.foresight.of_growth(growth)
        else:
            run.foresight.remember(primitives)
            revised = {}
        primitives = run.reuse.gated(primitives)
        if growth.replaces:
            control = growth.nodes[-1].id
            del run.attempts[control]
            self.handle(ev.Expanded(run.id, control, primitives, self._giver.found(run)))
        else:
            self.handle(ev.NodesAdded(run.id, primitives, self._giver.found(run), revised))
        if growth.more and growth.control is not None:
            self._turns.put_off(run, growth.control)
        known, grown = run.graph.catch_up(growth.nodes)
        self._take_in(run, grown, known)
        if run.graph.shelved:
            self._take_up(run)

    def _take_in(self, run: Run, grown: Iterable[Growth], known: Mapping[Value, Datum]) -> None:
        """New nodes, and values that are known before what they are part of is complete."""
        for growth in grown:
            self.grown(run, growth)
        self.known(run, known)

    def known(self, run: Run, values: Mapping[Value, Datum]) -> None:
        """Values are known that no task gave: inputs, and parts of texts that are still being written."""
        for value, datum in values.items():
            run.learn(value.node, {value: datum}, now())
        if values:
            contents = {value: content_of(datum) for value, datum in values.items()}
            self.handle(ev.ValuesKnown(run.id, contents | self._giver.found(run)))
        self._turns.advance(run)

    def _begin_bodies(self, run: Run, control: int) -> None:
        def begin() -> None:
            growth = run.graph.advance(control)
            if growth.nodes or growth.more:
                self.grown(run, growth)

        self._guarded(run, control, begin)

    def _guarded(self, run: Run, number: int, work: Callable[[], None]) -> None:
        """Do what may turn out to be impossible; then the run fails, and nothing else does."""
        try:
            work()
        except Exception as problem:
            node = run.node(number)
            self._owner.run_failed(run, blame(fault_of(problem, node.where()), node))

    # ---- what nobody needs

    def shelve(self, run: Run) -> None:
        """A client has withdrawn values: call back what nobody needs any more. Never amid other actions."""
        shelved = run.shelve() if run.id in self.runs else ()
        if shelved:
            run.call_back(shelved, now())
            self.handle(ev.NodesShelved(run.id, tuple(shelved)))
            self._giver.ask_again(run.reuse.give_up(shelved))

    def _take_up(self, run: Run) -> None:
        """A run has grown, or its client waits for more: begin again what somebody needs after all."""
        needed = run.take_up()
        if needed and not self._cannot_go_on(run):
            run.reuse.take_up(needed)
            found = self._giver.found(run)
            self.handle(ev.ValuesKnown(run.id, found), ev.NodesTakenUp(run.id, tuple(needed)))
            begun = [number for number in needed if isinstance(run.node(number).op, Map | Fold)]
            known, grown = run.graph.catch_up(run.node(number) for number in begun)
            run.unblocked.update(dict.fromkeys(begun))
            self._take_in(run, grown, known)

    # ---- the end of a run

    def _cannot_go_on(self, run: Run) -> bool:
        """End the run if somebody needs what has failed; whether that is so."""
        fault = run.lacks()
        if fault is not None:
            self._owner.run_failed(run, fault)
        return fault is not None

    def _do_without(self, run: Run) -> None:
        """Nobody needs what has failed of a run, nor what waits for that in vain."""
        self.shelve(run)
        if not self._cannot_go_on(run):
            self.settle(run)

    def settle(self, run: Run) -> None:
        """End the run if it is complete."""
        if run.id in self.runs and run.complete:
            self._owner.run_complete(run)

    # ---- actions

    def _perform(self, action: act.Action) -> None:
        match action:
            case act.WakeAt(time=when):
                self._timer.wake_at(when)
            case act.Dispatch():
                self._sender.dispatch(action, self.runs)
            case act.CancelTasks(worker=worker, run=run_id, nodes=nodes):
                self._sender.cancel(worker, run_id, nodes)
            case act.Release(worker=worker, run=run_id, values=values, dead=dead):
                self._sender.release(worker, run_id, values, dead)
            case _ if action.run in self.runs:
                self._perform_for(self.runs[action.run], action)
            case _:
                pass  # the run ended while its actions were performed

    def _perform_for(
        self,
        run: Run,
        action: act.Evaluate | act.Expand | act.AskClient | act.NodeFailed,
    ) -> None:
        match action:
            case act.Evaluate(node=node, attempt=attempt):
                self._compute(run, node, attempt, lambda: self._evaluate(run, node))
            case act.Expand(node=node, attempt=attempt):
                self._compute(run, node, attempt, lambda: self._expand(run, node))
            case act.AskClient(node=node, attempt=attempt):
                run.begin(node, attempt, PERSON if run.is_question(node) else CLIENT, now())
                self._owner.ask_client(run, run.node(node), attempt)
            case act.NodeFailed(node=node, fault=fault):
                run.fail(node, fault, now())
                if not self._cannot_go_on(run):
                    self._lacking[run.id] = None

    def _compute(self, run: Run, number: int, attempt: int, compute: Callable[[], None]) -> None:
        """Do what the orchestrator does itself; what goes wrong is that node's failure and nothing else."""
        run.begin(number, attempt, ORCHESTRATOR, now())
        try:
            compute()
        except TooLargeError:
            message = (
                f"it would make a value of more than {self._most} characters; make it of less, "
                "or raise max_message_mb in the settings"
            )
            self.task_failed(run.id, number, attempt, Fault("too_large", message))
        except Exception as problem:
            self.task_failed(run.id, number, attempt, fault_of(problem, run.node(number).where()))

    def _evaluate(self, run: Run, number: int) -> None:
        node = run.node(number)
        self.task_done(run, node, self._giver.compute(run, node))

    def _expand(self, run: Run, number: int) -> None:
        node = run.node(number)
        idle = isinstance(node.op, Fold) and run.may_guess and self.scheduler.idle("llm", run.id)
        growth = run.graph.expand(number, run.operands(node), idle=idle)
        self.grown(run, growth)
        if run.give_up(growth):
            self._lacking[run.id] = None
        self.settle(run)
