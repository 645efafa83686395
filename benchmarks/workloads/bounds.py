"""What no schedule of a run could beat, and what its time was spent on instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from weft.frontend.report import RunReport
from weft.frontend.report.tasks import Task

__all__ = ["Bounds"]


@dataclass(frozen=True)
class Bounds:
    """Of runs of one program, in milliseconds on average.

    `path`: the longest way through the primitives if each took what it is expected to take alone on an idle
    machine, and as much as one likes ran at once. `work`: what all that the model did would take if nothing
    else ran; with one model on one machine, nothing can be faster either.
    """

    path: float
    work: float
    measured: float
    blame: Mapping[str, float]

    @classmethod
    def of(cls, reports: Sequence[RunReport]) -> Bounds:
        """The means of several runs."""
        phases = {phase for report in reports for phase in report.blame}
        return cls(
            fmean(path_ms(report.tasks) for report in reports),
            fmean(work_ms(report.tasks) for report in reports),
            fmean(report.seconds * 1e3 for report in reports),
            {str(phase): fmean(report.blame.get(phase, 0.0) for report in reports) for phase in phases},
        )

    @property
    def closeness(self) -> float:
        """The larger bound as a share of what was measured: 1 cannot be improved."""
        return max(self.path, self.work) / self.measured


def path_ms(tasks: Mapping[int, Task]) -> float:
    """The longest way. What takes a part of a text that was still being written waits for that part alone."""
    ends: dict[int, float] = {}
    begins: dict[int, float] = {}
    for task in sorted(tasks.values(), key=lambda task: (task.ready_s, task.finished_s)):
        begin = 0.0
        for number in task.operands:
            if number not in ends:
                continue
            maker = tasks[number]
            took_s = maker.finished_s - maker.ready_s
            written = min(1.0, (task.ready_s - maker.ready_s) / took_s) if took_s > 0 else 1.0
            begin = max(begin, begins[number] + written * (ends[number] - begins[number]))
        begins[task.node], ends[task.node] = begin, begin + _alone_ms(task)
    return max(ends.values(), default=0.0)


def work_ms(tasks: Mapping[int, Task]) -> float:
    """All work of the model, one primitive after another."""
    return sum(_alone_ms(task) for task in tasks.values() if task.kind == "llm")


def _alone_ms(task: Task) -> float:
    """What a primitive takes if nothing else runs."""
    return min(task.predicted_ms, task.work_ms) if task.predicted_ms else task.work_ms
