"""What each step of a critical path waited for, in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from .path import Step
from .tasks import CLIENT, PERSON, WAITING, Phase, Slice, Task
from .units import milliseconds

__all__ = ["Wait", "begun_by", "waits"]


@dataclass(frozen=True, slots=True)
class Wait:
    """A time in which nothing was done for a step, and what it waited for."""

    phase: Phase
    ms: float
    text: str


def begun_by(step: Step) -> str:
    """What the step's task became ready by."""
    cause = step.cause
    if cause is None:
        return "ready when the run began"
    name = cause.task.name
    match cause.kind:
        case "finished":
            return f"ready when {name} had finished"
        case "written":
            return f"ready when the part that it takes of what {name} was writing was there"
        case "added":
            return f"came into the graph after {name} had finished"


def waits(step: Step, tasks: Iterable[Task]) -> tuple[Wait, ...]:
    """The waits of a step, in the order of time; those for the same thing as one."""
    return tuple(_waits(step, [task for task in tasks if task.node != step.task.node]))


def _waits(step: Step, others: Sequence[Task]) -> Iterator[Wait]:
    task = step.task
    before = [part for part in step.slices if part.end_s <= task.ready_s]
    after = [part for part in step.slices if part.start_s >= task.finished_s]
    yield from (Wait(part.phase, part.ms, _opening(step, part.phase)) for part in before)
    queues: dict[Phase, str] = {"wait": "orchestrator's queue for", "queue": "queue of"}
    for phase, queue in queues.items():
        parts = [part for part in step.slices if part.phase == phase]
        if parts:
            yield Wait(phase, _ms(parts), f"in the {queue} {_place(task)}, {_behind(task, parts, others)}")
    transfer = [part for part in step.slices if part.phase == "transfer"]
    if transfer:
        yield Wait("transfer", _ms(transfer), f"for messages to {_place(task)} and back")
    yield from (Wait(part.phase, part.ms, _closing(part.phase)) for part in after)


def _opening(step: Step, phase: Phase) -> str:
    if phase == "client":
        after = f" after {step.cause.task.name}" if step.cause else ""
        return f"for the program's own code to add it to the graph{after}"
    if step.cause is None:
        return "for the orchestrator to begin the run"
    return f"for the orchestrator to open this part of the graph after {step.cause.task.name}"


def _closing(phase: Phase) -> str:
    return f"for the {'program to return' if phase == 'client' else 'orchestrator to end the run'}"


def _behind(task: Task, queue: Sequence[Slice], others: Iterable[Task]) -> str:
    """What the task's worker did for this run while the task was in the queue."""
    shares = [(_overlap(queue, other), other) for other in others if other.worker == task.worker]
    busy = sorted((share for share in shares if share[0] > 0), key=lambda share: (-share[0], share[1].node))
    if not busy:
        return "behind nothing of this run"
    named = ", ".join(f"{other.name} ({milliseconds(ms)})" for ms, other in busy[:2])
    more = f" and {len(busy) - 2} more" if len(busy) > 2 else ""
    return f"behind {named}{more}"


def _place(task: Task) -> str:
    places = {CLIENT: "the program's process", PERSON: "a person"}
    return places.get(task.worker, f"worker {task.worker!r}")


def _overlap(queue: Sequence[Slice], other: Task) -> float:
    """The milliseconds of the queue in which something was done for the other task."""
    work = [part for part in other.slices if part.phase not in WAITING]
    pairs = ((one, two) for one in queue for two in work)
    return sum(max(0.0, min(a.end_s, b.end_s) - max(a.start_s, b.start_s)) * 1e3 for a, b in pairs)


def _ms(parts: Iterable[Slice]) -> float:
    return sum(part.ms for part in parts)
