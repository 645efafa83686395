"""The measured critical path of a run: why it did not end earlier, from its end back to its beginning.

Each moment of the run belongs to exactly one step, so that what the steps were spent on adds up to the run's
time. It is found as critical paths of traces are (Yang and Miller, "Critical Path Analysis for the Execution
of Parallel and Distributed Programs", ICDCS 1988): from the task that ended last to what made it ready last.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from .tasks import ORCHESTRATOR, Phase, Slice, Task

__all__ = ["Cause", "Step", "blame", "critical_path"]

_SAME_S: Final = 1e-6  # times that are further apart differ
_AT_ONCE_S: Final = 1e-3  # within which the orchestrator opens what a result lets it open

Makers = Mapping[int, tuple[int, ...]]
"""Of nodes whose time nobody measured, the nodes whose results they took."""


@dataclass(frozen=True, slots=True)
class Cause:
    """What a task became ready by.

    finished: the last of its operands was there; written: the part that it takes of a text that was still
    being written; added: it came into the graph, after all else that it needs.
    """

    kind: Literal["finished", "written", "added"]
    task: Task


@dataclass(frozen=True, slots=True)
class Step:
    """The part of a run in which nothing but one task kept it from ending earlier."""

    task: Task
    cause: Cause | None  # None: the run's beginning
    slices: tuple[Slice, ...]
    """Contiguous. The first may lie before the task was ready, the last after it had finished."""

    @property
    def start_s(self) -> float:
        """Where the step before it ends."""
        return self.slices[0].start_s if self.slices else self.task.ready_s

    @property
    def ms(self) -> float:
        """Its share of the run."""
        return sum(part.ms for part in self.slices)


def critical_path(
    tasks: Mapping[int, Task], end_s: float, idle: Phase, makers: Makers | None = None
) -> tuple[Step, ...]:
    """The steps of a run from its beginning to its end at `end_s`; `idle`: who moves while no task does."""
    steps: list[Step] = []
    task = max(tasks.values(), key=lambda task: task.finished_s, default=None)
    until, seen = end_s, set[int]()
    while task is not None:
        seen.add(task.node)
        cause = _cause(task, tasks, makers or {}, seen)
        begin = min(cause.task.finished_s, task.ready_s) if cause else 0.0
        whole = (Slice(idle, begin, task.ready_s), *task.slices, Slice(idle, task.finished_s, until))
        parts = (part.until(until) for part in whole)
        kept = tuple(part for part in parts if part.end_s > part.start_s)
        steps.append(Step(task, cause, kept))
        task, until = (cause.task if cause else None), begin
    return tuple(reversed(steps))


def blame(steps: Iterable[Step]) -> dict[Phase, float]:
    """The milliseconds that the path was spent on each thing, the longest first."""
    found: dict[Phase, float] = {}
    for step in steps:
        for part in step.slices:
            found[part.phase] = found.get(part.phase, 0.0) + part.ms
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _cause(task: Task, tasks: Mapping[int, Task], makers: Makers, seen: set[int]) -> Cause | None:
    ready = task.ready_s
    operands = [tasks[number] for number in _measured(task.operands, tasks, makers) if number not in seen]
    before = max((one for one in operands if _ended(one, ready)), key=_finish, default=None)
    if before is not None and _finish(before) >= ready - _SAME_S:
        return Cause("finished", before)
    writing = max((one for one in operands if one.ready_s < ready < _finish(one)), key=_finish, default=None)
    if writing is not None:
        return Cause("written", writing)
    return _opened_by(ready, [one for one in tasks.values() if one.node not in seen])


def _opened_by(ready: float, others: list[Task]) -> Cause | None:
    """Why a task was not in the graph earlier: by what happened last before it came."""
    ended = (one for one in others if one.ready_s < ready and _ended(one, ready) and not _is_constant(one))
    last = max(ended, key=_finish, default=None)
    if last is not None and _finish(last) >= ready - _AT_ONCE_S:
        return Cause("added", last)
    writing = [one for one in others if one.generated_tokens and one.ready_s < ready < _finish(one)]
    if writing:
        return Cause("written", max(writing, key=lambda one: one.ready_s))
    return Cause("added", last) if last else None


def _measured(numbers: Iterable[int], tasks: Mapping[int, Task], makers: Makers) -> Iterator[int]:
    """The measured nodes behind some nodes, each once."""
    pending, seen = list(numbers), set[int]()
    while pending:
        number = pending.pop()
        if number in seen:
            continue
        seen.add(number)
        if number in tasks:
            yield number
        else:
            pending += makers.get(number, ())


def _ended(task: Task, at_s: float) -> bool:
    return task.finished_s <= at_s + _SAME_S


def _is_constant(task: Task) -> bool:
    """Whether nothing can have come of it that was not known before."""
    return task.worker == ORCHESTRATOR and not task.operands


def _finish(task: Task) -> float:
    return task.finished_s
