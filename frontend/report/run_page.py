"""The page of a `RunReport`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from .diagram import of_tasks
from .drawing import MOST_BOXES
from .explanation_page import contents, plan_sections
from .gantt import gantt
from .graph_view import diagram_view
from .markup import Child, Markup, join, tag
from .page import details, figure, label, legend, page, section, source, swatch, table
from .path import Step, blame
from .tasks import PHASES, Phase, Task
from .units import milliseconds
from .waits import begun_by, waits

if TYPE_CHECKING:
    from .run_report import RunReport

__all__ = ["run_page"]

_TIMES: Final = {"at", "took", "predicted", "waited", "worked", "ready", "share", "time"}
_MOST_SHOWN: Final = 40  # primitives whose table is open from the beginning


def run_page(report: RunReport) -> str:
    """The whole page: blame, timeline, critical path, all primitives, and the plan if it is known."""
    links = [("blame", "Blame"), ("timeline", "Timeline"), ("path", "Critical path"), ("ran", "What ran")]
    if report.plan:
        links += [("before", "As written"), ("after", "After all passes"), ("passes", "Passes")]
    return page(
        f"Run {report.run} of program {report.program}",
        tag("p", _summary(report)),
        contents(links),
        section("Where the time went", _blame(report), anchor="blame"),
        section("Timeline", _timeline(report), anchor="timeline"),
        section("The critical path", _path(report), anchor="path"),
        section("What ran", _ran(report), anchor="ran"),
        list(plan_sections(report.plan)) if report.plan else "",
    )


def _summary(report: RunReport) -> str:
    text = (
        f"{report.state.capitalize()} after {milliseconds(report.seconds * 1e3)}; {len(report.tasks)} "
        f"primitives ran, {len(report.critical)} of them on the critical path."
    )
    if any(report.tokens):
        text += f" Its {report.tokens}."
    if report.plan and report.plan.predictions:
        text += f" Predicted: {milliseconds(report.plan.milliseconds)}, if no engine ever makes it wait."
    return text


def _blame(report: RunReport) -> Markup:
    note = "What each moment of the critical path was spent on. The times add up to that of the run."
    columns = ["spent on", "which is", "time", "share", ""]
    rows = (_blame_row(phase, ms, report.seconds * 1e3) for phase, ms in report.blame.items())
    return join(tag("p", note, class_="soft"), table("Blame", columns, rows, _TIMES))


def _blame_row(phase: Phase, ms: float, whole: float) -> Sequence[Child]:
    share = tag("span", class_=phase, style=f"width: {ms / whole:.1%}")
    bar = tag("div", share, class_="share", aria_hidden="true")
    return [swatch(phase), phase], PHASES[phase], milliseconds(ms), f"{ms / whole:.0%}", bar


def _timeline(report: RunReport) -> Markup:
    tasks = list(report.tasks.values())
    note: Child = ""
    if len(tasks) > MOST_BOXES:
        note = tag("p", f"{len(tasks)} primitives are too many to draw, so this is the critical path alone.")
        tasks = [task for task in tasks if task.node in report.critical]
    name = f"Timeline of run {report.run}"
    present = {part.phase for task in tasks for part in task.slices}
    colours = legend((phase, phase) for phase in PHASES if phase in present)
    caption = "Thin bars: the primitive is ready, but waits. Red frames: the critical path."
    drawn = gantt(tasks, report.critical, report.seconds, name)
    return join(note, colours, figure(drawn, name, caption))


def _path(report: RunReport) -> Markup:
    note = "From the beginning to the end, each step with what it waited for. Nothing else delayed the run."
    columns = ["at", "primitive", "on", "took", "predicted", "what it waited for", "spent on"]
    rows = (_path_row(step, report) for step in report.path)
    return join(tag("p", note, class_="soft"), table("Critical path", columns, rows, _TIMES))


def _path_row(step: Step, report: RunReport) -> Sequence[Child]:
    task = step.task
    spent = ", ".join(f"{phase} {milliseconds(ms)}" for phase, ms in blame([step]).items())
    return (
        milliseconds(step.start_s * 1e3),
        [label(task.label), " ", source(task.location)],
        task.worker,
        milliseconds(task.work_ms),
        milliseconds(task.predicted_ms),
        tag("ul", [tag("li", text) for text in _waited(step, report)]),
        spent,
    )


def _waited(step: Step, report: RunReport) -> Iterator[str]:
    yield begun_by(step)
    for wait in waits(step, report.tasks.values()):
        yield f"{milliseconds(wait.ms)} {wait.text}"


def _ran(report: RunReport) -> Markup:
    columns = ["primitive", "on", "ready", "waited", "worked", "predicted", "tokens", "critical"]
    rows = (_ran_row(task, report) for task in report.tasks.values())
    count = len(report.tasks)
    every = table("All primitives", columns, rows, _TIMES)
    return join(
        diagram_view(of_tasks(report), f"The primitives of run {report.run}"),
        details(f"All {count} primitives, measured beside predicted", every, shown=count <= _MOST_SHOWN),
    )


def _ran_row(task: Task, report: RunReport) -> Sequence[Child]:
    critical = task.node in report.critical
    return (
        [label(task.label), " ", source(task.location)],
        task.worker,
        milliseconds(task.ready_s * 1e3),
        milliseconds(task.wait_ms),
        milliseconds(task.work_ms),
        milliseconds(task.predicted_ms),
        _tokens(task),
        tag("span", "yes", class_="yes") if critical else "no",
    )


def _tokens(task: Task) -> str:
    counts = {
        "read": task.computed_tokens,
        "cached": task.cached_tokens,
        "fetched": task.fetched_tokens,
        "written": task.generated_tokens,
    }
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count)
