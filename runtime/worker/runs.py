"""The operand table: which tasks wait for which values, and which may start. Pure: no clock, no I/O.

fragment ─▶ waiting ─(all operands known)─▶ running ─▶ results ─▶ wake those that wait for them
               ▲                                            │
push ──────────┴────────────────────────────────────────────┘
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from weft.graph.ir import Value
from weft.graph.ops.primitive import Prefill
from weft.graph.values import Datum

from .engines.base import HeldKv, Operands, Task

__all__ = ["Ready", "Runs"]


class Ready(NamedTuple):
    """A task that may start, and its operands by argument name."""

    task: Task
    operands: Operands


@dataclass(slots=True, eq=False)
class _Waiting:
    task: Task
    missing: set[str]  # keys of operands that are not known yet


@dataclass(slots=True)
class _Run:
    values: dict[str, Datum] = field(default_factory=dict)  # by key: "%3", "%3.1"
    waiting: dict[int, _Waiting] = field(default_factory=dict)  # by node
    takers: dict[str, list[_Waiting]] = field(default_factory=dict)  # who waits, or has waited, for a key
    running: set[Task] = field(default_factory=set)
    current: dict[int, Task] = field(
        default_factory=dict
    )  # the running attempts whose results count, by node
    reading: dict[int, Task] = field(default_factory=dict)  # those of them that are prefills by themselves

    @property
    def empty(self) -> bool:
        return not (self.values or self.waiting or self.running)

    def enter(self, task: Task) -> bool:
        """Let a task wait for those of its operands that are not known; whether all are."""
        missing = {str(value) for value in task.node.args.values()} - self.values.keys()
        if not missing:
            self.waiting.pop(task.node.id, None)
            return True
        entry = self.waiting[task.node.id] = _Waiting(task, missing)
        for key in missing:
            self.takers.setdefault(key, []).append(entry)
        return False

    def learn(self, values: Mapping[str, Datum]) -> list[_Waiting]:
        """Take values; what now lacks nothing any more."""
        complete: list[_Waiting] = []
        for key, datum in values.items():
            if not isinstance(self.values.get(key), HeldKv):
                self.values[key] = datum
            for entry in self.takers.pop(key, ()):
                entry.missing.discard(key)
                if not entry.missing:
                    complete.append(entry)
        return complete

    def waits(self, entry: _Waiting) -> bool:
        """Whether a task has neither started nor been replaced or cancelled."""
        return self.waiting.get(entry.task.node.id) is entry

    def waiting_only_for(self, key: str) -> list[_Waiting]:
        """The tasks that wait for this value and for nothing else."""
        takers = self.takers.get(key, ())
        return [entry for entry in takers if len(entry.missing) == 1 and self.waits(entry)]

    def retire(self, node: int) -> Task:
        """Take out the running attempt of a node: its results do not count any more, or are there."""
        self.reading.pop(node, None)
        return self.current.pop(node)


class Runs:
    """Tasks and values of all runs of one orchestrator.

    A KV value that was made here stays when it is sent again. Of several attempts of a node only the last
    counts.
    """

    def __init__(self) -> None:
        self._runs: dict[str, _Run] = {}

    @property
    def waiting(self) -> int:
        """Tasks that lack operands."""
        return sum(len(run.waiting) for run in self._runs.values())

    @property
    def running(self) -> int:
        """Tasks that have started and not ended, cancelled ones included."""
        return sum(len(run.running) for run in self._runs.values())

    @property
    def contexts(self) -> int:
        """KV values that are held here."""
        return sum(isinstance(datum, HeldKv) for run in self._runs.values() for datum in run.values.values())

    def __len__(self) -> int:
        """Runs of which anything is held."""
        return len(self._runs)

    def __contains__(self, run: str) -> bool:
        return run in self._runs

    def add(self, tasks: Collection[Task], values: Mapping[str, Datum]) -> list[Ready]:
        """Take tasks of one run with the values known so far; returns the tasks that may start, in order.

        Another attempt takes the place of a waiting one; cancel a running one first.
        """
        if not tasks:
            return []
        (name,) = {task.run for task in tasks}
        run = self._runs.setdefault(name, _Run())
        complete = run.learn(values)
        ready = [task for task in tasks if run.enter(task)]
        return [self._start(run, task) for task in ready] + self._woken(run, complete)

    def push(self, run: str, values: Mapping[str, Datum]) -> list[Ready]:
        """Take values that have become known; those of a run without tasks or values here are dropped."""
        known = self._runs.get(run)
        return self._woken(known, known.learn(values)) if known is not None else []

    def finish(self, task: Task, results: Iterable[Datum]) -> list[Ready]:
        """Take the results of a task; those of one that was cancelled or superseded are dropped."""
        run, number = self._runs[task.run], task.node.id
        if run.current.get(number) is not task:
            self.leave(task)
            return []
        made = {str(Value(number, output)): datum for output, datum in enumerate(results)}
        run.values.update(made)
        run.running.discard(task)
        run.retire(number)
        ready = self._woken(run, run.learn(made))
        self._tidy(task.run)
        return ready

    def leave(self, task: Task) -> None:
        """Note that a running task has ended without results; nothing happens to one that is not running."""
        run = self._runs.get(task.run)
        if run is None:
            return
        run.running.discard(task)
        if run.current.get(task.node.id) is task:
            run.retire(task.node.id)
        self._tidy(task.run)

    def cancel(self, run: str, nodes: Collection[int] = ()) -> list[Task]:
        """Drop the waiting tasks of these nodes, or with none given all tasks and values of the run.

        Returns the running ones among them: the caller stops them and says `leave` once they have ended.
        """
        known = self._runs.get(run)
        if known is None:
            return []
        if not nodes:
            known.values.clear()
        chosen = set(nodes) or known.waiting.keys() | known.current.keys()
        for node in chosen:
            known.waiting.pop(node, None)
        stopped = [known.retire(node) for node in sorted(chosen & known.current.keys())]
        self._tidy(run)
        return stopped

    def cancel_all(self) -> list[Task]:
        """Cancel every run."""
        return [task for run in list(self._runs) for task in self.cancel(run)]

    def release(self, run: str, keys: Collection[str] = ()) -> None:
        """Forget values of a run, or all of them if no keys are given."""
        known = self._runs.get(run)
        if known is None:
            return
        for key in list(keys or known.values):
            known.values.pop(key, None)
        self._tidy(run)

    def context(self, run: str, key: str) -> HeldKv | None:
        """A context that is held for a run."""
        known = self._runs.get(run)
        datum = known.values.get(key) if known is not None else None
        return datum if isinstance(datum, HeldKv) else None

    def waiting_for(self, run: str, keys: Collection[str]) -> list[Task]:
        """The tasks of a run that wait for any of these values."""
        known = self._runs.get(run)
        waiting = known.waiting.values() if known is not None else ()
        return [entry.task for entry in waiting if not entry.missing.isdisjoint(keys)]

    def overtaken(self, run: str) -> list[Task]:
        """The running prefills on which alone something waits that continues them."""
        known = self._runs.get(run)
        if known is None:
            return []
        return [task for number, task in known.reading.items() if known.waiting_only_for(str(Value(number)))]

    def _woken(self, run: _Run, complete: Iterable[_Waiting]) -> list[Ready]:
        """What may start of tasks that have waited, unless others have taken their places."""
        ready: list[Ready] = []
        for entry in complete:
            if run.waits(entry):
                del run.waiting[entry.task.node.id]
                ready.append(self._start(run, entry.task))
        return ready

    def _start(self, run: _Run, task: Task) -> Ready:
        if isinstance(task.node.op, Prefill):
            follower = self._continued_by(run, task)
            if follower is not None:
                task = replace(task, fused=True)
                follower.task = replace(follower.task, source=task.source)
            else:
                run.reading[task.node.id] = task
        run.running.add(task)
        run.current[task.node.id] = task
        operands = {name: run.values[str(value)] for name, value in task.node.args.items()}
        return Ready(task, operands)

    def _continued_by(self, run: _Run, task: Task) -> _Waiting | None:
        """A task that takes the KV value of this prefill and waits for nothing else."""
        kv = str(Value(task.node.id))
        return next((entry for entry in run.waiting_only_for(kv) if _continues(entry.task, kv)), None)

    def _tidy(self, run: str) -> None:
        known = self._runs.get(run)
        if known is not None and known.empty:
            del self._runs[run]


def _continues(task: Task, kv: str) -> bool:
    return "kv" in task.node.args and str(task.node.args["kv"]) == kv
