"""The same scheduler as in production, performing its actions on modelled workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from weft.runtime.scheduler import actions as act
from weft.runtime.scheduler import events as ev
from weft.runtime.scheduler.prefixes import Content, FixedContent
from weft.runtime.scheduler.scheduler import Scheduler

from .clock import Alarm, Clock
from .programs import Arrival, Program
from .runs import LiveProgram
from .worker import SimWorker, Stat, Task

__all__ = ["Delays", "Outcome", "RunStat", "Simulation"]


@dataclass(frozen=True)
class Delays:
    """What everything around the engines takes, in seconds."""

    hop_s: float = 0.0005  # between orchestrator and workers, one way
    client_s: float = 0.0  # between client and orchestrator and back, for each tool of the client


@dataclass
class RunStat:
    """How a run went."""

    name: str
    namespace: str
    started: float
    finished: float = -1.0
    fault: str = ""
    tasks: dict[int, Stat] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """From beginning to end (job completion time)."""
        return self.finished - self.started


@dataclass
class Outcome:
    """What a simulation gave."""

    runs: list[RunStat]
    seconds: float  # of simulated time
    decisions: int  # calls of the scheduler
    primitives: int  # that engines of workers ran
    scheduler_s: float  # of CPU time in the scheduler
    cached_tokens: float
    computed_tokens: float
    written_tokens: float
    retractions: int
    loads: dict[str, float]  # seconds that each worker's engines computed


class Simulation:
    """Programs on workers. It keeps what becomes of each run."""

    def __init__(self, scheduler: Scheduler, delays: Delays = Delays()) -> None:
        self.clock = Clock()
        self._scheduler = scheduler
        self._delays = delays
        self._workers: dict[str, SimWorker] = {}
        self._runs: dict[str, LiveProgram] = {}
        self._stats: dict[str, RunStat] = {}
        self._started = 0
        self._alarm: Alarm | None = None
        self._decisions = self._primitives = 0
        self._scheduler_s = 0.0

    # ---- the world

    def join(
        self, worker: Callable[[Clock, Callable[[Task, Stat, ev.Usage | None], None]], SimWorker]
    ) -> None:
        """Let a worker join."""
        made = worker(self.clock, self._reported)
        self._workers[made.name] = made
        self._send(ev.WorkerJoined(made.name, made.specs))

    def lose(self, name: str) -> None:
        """Let a worker vanish with all that it does."""
        worker = self._workers.pop(name)
        for run in list(self._runs):
            worker.cancel(run, ())
        self._send(ev.WorkerLost(name, "it was lost"))

    def run(self, arrivals: Iterable[Arrival], until: float = float("inf")) -> Outcome:
        """Start programs at their times, and let everything happen that follows."""
        self._arrive(iter(arrivals))
        self.clock.run(until)
        return self._outcome()

    def start(self, program: Program) -> str:
        """Start a program now; the run's name."""
        self._started += 1
        run = f"r{self._started}"
        live = self._runs[run] = LiveProgram(run, program, self.clock.now)
        self._stats[run] = RunStat(program.name, program.namespace, self.clock.now)
        deadline = self.clock.now + program.deadline_s if program.deadline_s is not None else None
        self._send(ev.RunStarted(run, program.priority, program.grows, program.namespace, deadline))
        self._send(ev.NodesAdded(run, live.add(None)))
        return run

    def cancel(self, run: str) -> None:
        """Cancel a run."""
        self._end(run, "cancelled")
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
        actions = self._scheduler.handle(event, self.clock.now)
        self._scheduler_s += time.thread_time() - began
        self._decisions += 1
        for action in actions:
            self._perform(action)

    def _perform(self, action: act.Action) -> None:
        match action:
            case act.Dispatch(worker, fragments):
                for run, tasks in fragments:
                    self._dispatch(worker, self._runs[run], tasks)
            case act.Evaluate(run, node, attempt) | act.Expand(run, node, attempt):
                raise NotImplementedError
            case act.AskClient(run, node, attempt):
                ms = self._runs[run].truth(node).ms
                seconds = ms / 1e3 + self._delays.client_s
                self.clock.after(seconds, partial(self._answered, run, node, attempt))
            case act.CancelTasks(worker, run, nodes):
                self._to(worker, lambda w: w.cancel(run, nodes))
            case act.Release():
                pass
            case act.FailRun(run, fault):
                self._end(run, fault.message)
            case act.WakeAt(when):
                if self._alarm is not None:
                    self._alarm.call_off()
                self._alarm = self.clock.at(when, lambda: self._send(ev.Tick()))

    def _dispatch(self, worker: str, live: LiveProgram, tasks: Sequence[tuple[int, int]]) -> None:
        primitives = [(live.nodes[number], attempt) for number, attempt in tasks]
        self._primitives += len(tasks)
        known = set(live.done)
        self._to(worker, lambda w: w.take(live, primitives, known))

    def _to(self, worker: str, what: Callable[[SimWorker], None]) -> None:
        """Send a worker something, in order."""
        target = self._workers.get(worker)
        if target is not None:
            self.clock.after(self._delays.hop_s, lambda: what(target))

    # ---- what happens

    def _reported(self, task: Task, stat: Stat, usage: ev.Usage | None) -> None:
        self.clock.after(self._delays.hop_s, partial(self._task_done, task, stat, usage))

    def _answered(self, run: str, node: int, attempt: int) -> None:
        live = self._runs.get(run)
        if live is not None:
            now = self.clock.now
            self._done(live, node, attempt, Stat(now, now), None)

    def _task_done(self, task: Task, stat: Stat, usage: ev.Usage | None) -> None:
        if task.program.id in self._runs:
            self._done(task.program, task.number, task.attempt, stat, usage)

    def _done(self, live: LiveProgram, node: int, attempt: int, stat: Stat, usage: ev.Usage | None) -> None:
        if node in live.done:
            return
        live.done.add(node)
        live.pending -= 1
        self._stats[live.id].tasks[node] = stat
        gives = live.truth(node).gives
        content: Content | None = FixedContent(gives) if gives else None
        text = live.nodes[node].makes_context
        contents = ((None, content) if text else (content,)) if content is not None else ()
        self._send(ev.TaskDone(live.id, node, attempt, contents, usage))
        added = live.add(node)
        if added:
            self._send(ev.NodesAdded(live.id, added))
        if not live.pending and live.id in self._runs:
            self._end(live.id, "")
            self._send(ev.RunEnded(live.id))

    def _end(self, run: str, fault: str) -> None:
        if self._runs.pop(run, None) is not None:
            stat = self._stats[run]
            stat.finished, stat.fault = self.clock.now, fault

    def _outcome(self) -> Outcome:
        stats = list(self._stats.values())
        tasks = [stat for run in stats for stat in run.tasks.values()]
        return Outcome(
            runs=stats,
            seconds=self.clock.now,
            decisions=self._decisions,
            primitives=self._primitives,
            scheduler_s=self._scheduler_s,
            cached_tokens=sum(stat.cached for stat in tasks),
            computed_tokens=sum(stat.computed for stat in tasks),
            written_tokens=sum(stat.written for stat in tasks),
            retractions=sum(worker.retractions for worker in self._workers.values()),
            loads={worker.name: worker.busy_s for worker in self._workers.values()},
        )
