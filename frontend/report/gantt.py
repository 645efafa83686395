"""The timeline of a run as SVG: a lane a worker, each primitive a bar that is cut into its phases."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from .markup import Markup, tag
from .tasks import CLIENT, ORCHESTRATOR, PERSON, WAITING, Slice, Task
from .units import milliseconds

__all__ = ["gantt"]

_WIDTH: Final = 1120.0  # px
_MARGIN: Final = 12.0
_ROW: Final = 22.0
_BAR: Final = 16.0
_WAITING_BAR: Final = 6.0
_HEADING: Final = 26.0  # of a lane
_AXIS: Final = 24.0
_CHARACTER: Final = 6.7  # the width of one
_TICKS: Final = 8  # at most

Lane = tuple[str, list[list[Task]]]
"""The name of a place, and its rows."""


def gantt(tasks: Iterable[Task], critical: Collection[int], seconds: float, title: str) -> Markup:
    """The timeline of a run that took `seconds`, with the nodes in `critical` marked."""
    scale = _Scale(max(seconds, 1e-6))
    lanes = list(_lanes(tasks, scale))
    height = _AXIS + sum(_HEADING + _ROW * len(rows) for _, rows in lanes) + _MARGIN
    return tag(
        "svg",
        _axis(scale, height),
        list(_drawn(lanes, scale, critical)),
        xmlns="http://www.w3.org/2000/svg",
        class_="gantt",
        role="img",
        aria_label=f"{title}. The tables of the critical path and of all primitives say the same in words.",
        viewBox=f"0 0 {_WIDTH:g} {height:g}",
    )


@dataclass(frozen=True, slots=True)
class _Scale:
    """From seconds to px."""

    seconds: float

    def x(self, at_s: float) -> float:
        """Where a moment lies."""
        return _MARGIN + at_s / self.seconds * (_WIDTH - 2 * _MARGIN)

    def width(self, part: Slice) -> float:
        """How wide a slice is."""
        return self.x(part.end_s) - self.x(part.start_s)

    def ticks(self) -> Iterator[float]:
        """Round moments, in seconds."""
        step = _round_up(self.seconds / _TICKS)
        for number in range(int(self.seconds / step) + 1):
            yield number * step


def _round_up(value: float) -> float:
    """The least of 1, 2 and 5 times a power of ten that is not smaller."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value * (1 - 1e-9))


def _lanes(tasks: Iterable[Task], scale: _Scale) -> Iterator[Lane]:
    places: dict[str, list[Task]] = {}
    for task in tasks:
        places.setdefault(task.worker, []).append(task)
    order = {ORCHESTRATOR: 0, CLIENT: 2, PERSON: 3}
    for place in sorted(places, key=lambda place: (order.get(place, 1), place)):
        yield place, _rows(places[place], scale)


def _rows(tasks: Iterable[Task], scale: _Scale) -> list[list[Task]]:
    """As few rows as hold the tasks and their labels without overlap; one for the orchestrator's instants."""
    rows: list[list[Task]] = []
    ends: list[float] = []
    for task in sorted(tasks, key=lambda task: (task.ready_s, task.finished_s, task.node)):
        begin, end = _extent(task, scale)
        free = next((number for number, last in enumerate(ends) if last <= begin), len(rows))
        if not _is_named(task):
            free = 0
        if free == len(rows):
            rows.append([])
            ends.append(0.0)
        rows[free].append(task)
        ends[free] = end + 2
    return rows


def _extent(task: Task, scale: _Scale) -> tuple[float, float]:
    """From where to where a bar and its label reach, in px."""
    begin, end = scale.x(task.ready_s), scale.x(task.finished_s)
    if not _is_named(task) or _fits(task, scale):
        return begin, end
    space = len(task.label) * _CHARACTER + 8
    return (begin, end + space) if end + space <= _WIDTH else (begin - space, end)


def _is_named(task: Task) -> bool:
    """Whether a label is worth its place: what the orchestrator computes takes microseconds."""
    return task.worker != ORCHESTRATOR


def _fits(task: Task, scale: _Scale) -> bool:
    return len(task.label) * _CHARACTER + 8 <= scale.width(_widest(task))


def _widest(task: Task) -> Slice:
    """The part of a task that may bear its label."""
    nothing = Slice("compute", task.ready_s, task.ready_s)
    work = (part for part in task.slices if part.phase not in WAITING)
    return max(work, key=lambda part: part.ms, default=nothing)


def _axis(scale: _Scale, height: float) -> list[Markup]:
    marks = []
    for at in scale.ticks():
        x = scale.x(at)
        anchor = "end" if x > _WIDTH - 40 else "start"
        shift = -4 if anchor == "end" else 4
        marks += [
            tag("line", x1=x, y1=0, x2=x, y2=height, class_="tick"),
            tag("text", milliseconds(at * 1e3), x=x + shift, y=13, text_anchor=anchor, class_="tick"),
        ]
    return marks


def _drawn(lanes: Sequence[Lane], scale: _Scale, critical: Collection[int]) -> Iterator[Markup]:
    y = _AXIS
    for place, rows in lanes:
        yield tag("line", x1=0, y1=y + 2, x2=_WIDTH, y2=y + 2, class_="lane")
        yield tag("text", place, x=_MARGIN, y=y + 18, class_="lane")
        y += _HEADING
        for row in rows:
            yield from (_bar(task, y, scale, critical=task.node in critical) for task in row)
            y += _ROW


def _bar(task: Task, y: float, scale: _Scale, *, critical: bool) -> Markup:
    phases = ", ".join(f"{part.phase} {milliseconds(part.ms)}" for part in task.slices)
    left, right = scale.x(task.ready_s if _is_named(task) else task.start_s), scale.x(task.finished_s)
    frame = tag("rect", x=left - 1.5, y=y - 1.5, width=right - left + 3, height=_BAR + 3, class_="frame")
    return tag(
        "g",
        tag("title", f"{task.name}: {phases}"),
        [_slice(part, y, scale) for part in task.slices if _is_named(task) or part.phase not in WAITING],
        frame if critical else "",
        _label(task, y, scale) if _is_named(task) else "",
        class_="critical" if critical else None,
    )


def _slice(part: Slice, y: float, scale: _Scale) -> Markup:
    height = _WAITING_BAR if part.phase in WAITING else _BAR
    width = max(scale.width(part), 0.5)
    top = y + (_BAR - height) / 2
    return tag(
        "rect", x=scale.x(part.start_s), y=top, width=width, height=height, class_=f"phase {part.phase}"
    )


def _label(task: Task, y: float, scale: _Scale) -> Markup:
    """The label in the bar if it fits, else to the right of it, or to its left where the picture ends."""
    if _fits(task, scale):
        return tag("text", task.label, x=scale.x(_widest(task).start_s) + 4, y=y + 12, class_="inside")
    begin, _ = _extent(task, scale)
    if begin == scale.x(task.ready_s):
        return tag("text", task.label, x=scale.x(task.finished_s) + 5, y=y + 12, class_="beside")
    return tag("text", task.label, x=scale.x(task.ready_s) - 5, y=y + 12, text_anchor="end", class_="beside")
