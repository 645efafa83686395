"""The same scheduler as in production, performing its actions on modelled workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from weft.graph.ir import Value
from weft.runtime.kv.advice import Pin
from weft.runtime.scheduler import actions as act
from weft.runtime.scheduler import events as ev
from weft.runtime.scheduler.faults import Fault
from weft.runtime.scheduler.prefixes import Content, FixedContent
from weft.runtime.scheduler.scheduler import Scheduler

from .clock import Alarm, Clock
from .programs import Arrival, Program
from .runs import LiveProgram
from .worker import KvSource, Report, SimWorker, Stat, Task

__all__ = ["Delays", "Outcome", "RunStat", "Simulation"]


@dataclass(frozen=True)
class Delays:
    """What everything around the engines takes, in seconds."""

    hop_s: float = 0.0005  # between orchestrator and workers, one way
    client_s: float = 0.0  # between client and orchestrator and back, for each tool of the client
    run_s: float = 0.0  # from the last result of a run to its end


@dataclass(slots=True)
class RunStat:
    """How a run went."""

    name: str
    namespace: str
    started: float
    finished: float = -1.0
    fault: str = ""
    client_s: float = 0.0  # in which the client's own tools ran, or its user thought

    @property
    def seconds(self) -> float:
        """From beginning to end (job completion time), less what the client itself took."""
        return self.finished - self.started - self.client_s


@dataclass
class Outcome:
    """What a simulation gave."""

    runs: list[RunStat]  # those that are over, in the order of their beginnings
    seconds: float = 0.0  # of simulated time
    decisions: int = 0  # calls of the scheduler
    primitives: int = 0  # added by programs
    scheduler_s: float = 0.0  # of CPU time in the scheduler
    tasks: int = 0  # that engines finished
    cached_tokens: float = 0.0
    fetched_tokens: float = 0.0  # of the cached ones: from another worker
    computed_tokens: float = 0.0
    written_tokens: float = 0.0
    calls: list[Stat] = field(default_factory=list)  # of language models, if they were to be kept
    retractions: int = 0
    loads: dict[str, float] = field(default_factory=dict)  # seconds that each worker's engines computed


class Simulation:
    """Programs on workers. `keep_calls`: whether the outcome is to hold every call of a language model."""

    def __init__(self, scheduler: Scheduler, delays: Delays = Delays(), *, keep_calls: bool = False) -> None:
        self.clock = Clock()
        self._scheduler = scheduler
        self._delays = delays
        self._keep_calls = keep_calls
        self._workers: dict[str, SimWorker] = {}
        self._runs: dict[str, LiveProgram] = {}
        self._stats: dict[str, RunStat] = {}
        self._alarm: Alarm | None = None
        self._outcome = Outcome([])

    # ---- the world

    def join(self, worker: Callable[[Clock, Report], SimWorker]) -> None:
        """Let a worker join."""
        made = worker(self.clock, self._reported)
        self._workers[made.name] = made
        self._send(ev.WorkerJoined(made.name, made.specs))

    def lose(self, name: str) -> None:
        """Let a worker vanish with all that it does."""
        worker = self._workers.pop(name)
        for run in self._runs.values():
            worker.cancel(run.id, ())
            run.call_off(name, ())
        worker.close()
        self._send(ev.WorkerLost(name, "it was lost"))

    def run(self, arrivals: Iterable[Arrival], until: float = float("inf")) -> Outcome:
        """Start programs at their times, and let everything happen that follows."""
        self._arrive(iter(arrivals))
        self.clock.run(until)
        outcome = self._outcome
        outcome.runs = [stat for stat in self._stats.values() if stat.finished >= 0]
        outcome.seconds = self.clock.now
        outcome.retractions = sum(worker.retractions for worker in self._workers.values())
        outcome.loads = {worker.name: worker.busy_s for worker in self._workers.values()}
        return outcome

    def start(self, program: Program) -> str:
        """Start a program now; the run's name."""
        run = f"r{len(self._stats) + 1}"
        live = self._runs[run] = LiveProgram(run, program, self.clock.now)
        self._stats[run] = RunStat(program.name, program.namespace, self.clock.now)
        deadline = self.clock.now + program.deadline_s if program.deadline_s is not None else None
        self._send(ev.RunStarted(run, program.priority, program.grows, program.namespace, deadline))
        self._add(live, None)
        return run

    def cancel(self, run: str) -> None:
        """Cancel a run."""
        self._stop(run, "cancelled")

    def _stop(self, run: str, why: str) -> None:
        self._end(run, why)
        self._send(ev.RunEnded(run))

    def _arrive(self, arrivals: Iterator[Arrival]) -> None:
        """Set the next arrival; one at a time, so that programs are made when they are needed."""
        arrival = next(arrivals, None)
        if arrival is not None:
            self.clock.at(arrival.time, partial(self._begin, arrival, arrivals))

    def _begin(self, arrival: Arrival, arrivals: Iterator[Arrival]) -> None:
        self.start(arrival.program)
        self._arrive(arrivals)

    # ---- the scheduler

    def _send(self, event: ev.Event) -> None:
        began = time.thread_time()
        actions = self._scheduler.handle(event, now=self.clock.now)
        self._outcome.scheduler_s += time.thread_time() - began
        self._outcome.decisions += 1
        for action in actions:
            self._perform(action)

    def _perform(self, action: act.Action) -> None:
        match action:
            case act.Dispatch(worker, fragments, sources, keep):
                self._advise(worker, keep)
                for run, tasks in fragments:
                    self._dispatch(worker, self._runs[run], tasks, sources)
            case act.Evaluate(run, node, attempt):
                self._evaluate(run, node, attempt)
            case act.AskClient(run, node, attempt):
                self._ask(run, node, attempt)
            case act.CancelTasks(worker, run, nodes):
                if run in self._runs:
                    self._runs[run].call_off(worker, nodes)
                self._to(worker, lambda w: w.cancel(run, nodes))
            case act.WakeAt(when):
                if self._alarm is not None:
                    self._alarm.call_off()
                self._alarm = self.clock.at(when, lambda: self._send(ev.Tick()))
            case act.Release(worker, run, values, dead):
                if values:
                    self._release(worker, self._runs[run], values, dead)
            case act.Expand():
                raise AssertionError("programs of the simulator have no control nodes")
            case act.NodeFailed(run, _, fault):
                self.clock.at(self.clock.now, partial(self._stop, run, fault.message))

    def _dispatch(
        self,
        worker: str,
        live: LiveProgram,
        tasks: Sequence[tuple[int, int]],
        sources: Sequence[act.Source],
    ) -> None:
        primitives = [(live.nodes[number], attempt) for number, attempt in tasks]
        live.current.update((number, (attempt, worker)) for number, attempt in tasks)
        known = set(live.done)
        found = {
            source.node: KvSource(self._workers[source.worker], source.wait_s)
            for source in sources
            if source.run == live.id
        }
        head_start = self._scheduler.head_start(live.id, tasks[0][0])
        self._to(worker, lambda w: w.take(live, primitives, known, found, head_start))

    def _release(
        self, worker: str, live: LiveProgram, values: Sequence[Value], dead: Sequence[Value]
    ) -> None:
        nodes, useless = [value.node for value in values], {value.node for value in dead}
        self._to(worker, lambda w: w.release(live, nodes, useless))

    def _advise(self, worker: str, keep: Sequence[act.Keep]) -> None:
        for run, node, expires, begins in keep:
            live, pin = self._runs[run], Pin(expires, begins)
            self._to(worker, partial(SimWorker.advise, program=live, node=node, pin=pin))

    def _to(self, worker: str, what: Callable[[SimWorker], None]) -> None:
        """Send a worker something, in order."""
        target = self._workers.get(worker)
        if target is not None:
            self.clock.after(self._delays.hop_s, lambda: what(target))

    def _evaluate(self, run: str, node: int, attempt: int) -> None:
        """Let the orchestrator compute a node."""
        live = self._runs[run]
        live.current[node] = attempt, ""
        self.clock.after(live.truth(node).ms / 1e3, partial(self._done, live, node, attempt, None))

    def _ask(self, run: str, node: int, attempt: int) -> None:
        """Let the client compute a node, or its user think."""
        live = self._runs[run]
        live.current[node] = attempt, ""
        seconds = live.truth(node).ms / 1e3 + self._delays.client_s
        live.answering += 1
        if live.answering == 1:
            live.answering_since = self.clock.now
        self.clock.after(seconds, partial(self._answered, live, node, attempt))

    def _answered(self, live: LiveProgram, node: int, attempt: int) -> None:
        live.answering -= 1
        if not live.answering:
            self._stats[live.id].client_s += self.clock.now - live.answering_since
        self._done(live, node, attempt, None)

    # ---- what happens

    def _add(self, live: LiveProgram, trigger: int | None) -> None:
        added = live.add(trigger)
        if added:
            self._outcome.primitives += len(added)
            self._send(ev.NodesAdded(live.id, added))

    def _reported(self, task: Task, stat: Stat | Fault | None, usage: ev.Usage | None) -> None:
        run, node, attempt = task.program, task.number, task.attempt
        if stat is None:
            self.clock.after(self._delays.hop_s, partial(self._begun, run, node, attempt))
            return
        if isinstance(stat, Fault):
            self.clock.after(self._delays.hop_s, partial(self._failed, run, node, attempt, stat))
            return
        outcome = self._outcome
        outcome.tasks += 1
        if usage is not None:
            outcome.cached_tokens += stat.cached
            outcome.fetched_tokens += stat.fetched
            outcome.computed_tokens += stat.computed
            outcome.written_tokens += stat.written
            if self._keep_calls:
                outcome.calls.append(stat)
        self.clock.after(self._delays.hop_s, partial(self._done, run, node, attempt, usage))

    def _begun(self, live: LiveProgram, node: int, attempt: int) -> None:
        if self._is_current(live, node, attempt):
            self._send(ev.PromptRead(live.id, node, attempt))

    def _done(self, live: LiveProgram, node: int, attempt: int, usage: ev.Usage | None) -> None:
        if not self._is_current(live, node, attempt):
            return
        del live.current[node]
        live.done.add(node)
        live.pending -= 1
        gives = live.truth(node).gives
        content: Content | None = FixedContent(gives) if gives else None
        contents = (None, content) if live.nodes[node].makes_context else (content,)
        self._send(ev.TaskDone(live.id, node, attempt, contents, usage))
        self._add(live, node)
        if not live.pending and live.id in self._runs:
            self._end(live.id, "")
            self._send(ev.RunEnded(live.id))

    def _failed(self, live: LiveProgram, node: int, attempt: int, fault: Fault) -> None:
        if self._is_current(live, node, attempt):
            del live.current[node]
            self._send(ev.TaskFailed(live.id, node, attempt, fault))

    def _is_current(self, live: LiveProgram, node: int, attempt: int) -> bool:
        return live.id in self._runs and live.current.get(node, (0, ""))[0] == attempt

    def _end(self, run: str, fault: str) -> None:
        if self._runs.pop(run, None) is not None:
            stat = self._stats[run]
            stat.finished, stat.fault = self.clock.now + (0.0 if fault else self._delays.run_s), fault
