"""`RunReport`: where the time of a run went."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from weft.proto import orchestrator_pb2 as pb

from .diagram import of_tasks
from .path import Step, blame, critical_path
from .tasks import Phase, Task
from .units import milliseconds
from .waits import begun_by, waits

if TYPE_CHECKING:
    from weft.frontend.explanation import Explanation

__all__ = ["RunReport", "Tokens"]


class Tokens(NamedTuple):
    """What the models of a run have read and written."""

    prompts: int
    cached: int  # of those: had been read before, by this run or another
    written: int

    def __str__(self) -> str:
        return (
            f"models read {self.prompts:,} tokens, {self.cached:,} of them cached, and wrote {self.written:,}"
        )


@dataclass(frozen=True)
class RunReport:
    """A run that is over: its primitives, its critical path, and what each moment of that was spent on.

    As a string, a table of what the time went into, and the critical path with its waits.
    """

    run: str
    program: str
    state: str  # done, failed or cancelled
    seconds: float
    tasks: Mapping[int, Task]
    """By node, in the server's numbering, which traces use too."""
    path: tuple[Step, ...]
    plan: Explanation | None = None

    @classmethod
    def of(cls, result: pb.RunResult, *, grows: bool = False, plan: Explanation | None = None) -> RunReport:
        """The report of a run.

        Args:
            result: What the server says of it.
            grows: Its graph grew as the program went on, so that the program's own code can be what kept it.
            plan: What the optimizer did to the program.

        Raises ValueError if the plan is of another program.
        """
        info = result.info
        if plan is not None and plan.program != info.program:
            raise ValueError(
                f"the plan is of program {plan.program!r}, but run {info.run!r} of {info.program!r}; "
                "pass what explain() of that program returns"
            )
        tasks = {stat.node: Task.of(stat) for stat in sorted(info.stats, key=lambda stat: stat.ready_s)}
        makers = plan.makers if plan else {}
        path = critical_path(tasks, info.seconds, "client" if grows else "orchestrator", makers)
        return cls(info.run, info.program, info.state, info.seconds, tasks, path, plan)

    @cached_property
    def blame(self) -> dict[Phase, float]:
        """The milliseconds that the critical path was spent on each thing, the most first.

        They add up to the run's time.
        """
        return blame(self.path)

    @cached_property
    def tokens(self) -> Tokens:
        """What its models have read and written, as OpenAI's clients are told in `usage`."""
        tasks = self.tasks.values()
        prompts = sum(task.prompt_tokens for task in tasks)
        computed = sum(task.computed_tokens for task in tasks)
        return Tokens(prompts, max(prompts - computed, 0), sum(task.generated_tokens for task in tasks))

    @cached_property
    def critical(self) -> frozenset[int]:
        """The nodes on the critical path."""
        return frozenset(step.task.node for step in self.path)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def json(self) -> dict[str, Any]:
        """The report as JSON data; times in milliseconds."""
        return {
            "run": self.run,
            "program": self.program,
            "state": self.state,
            "milliseconds": self.seconds * 1e3,
            "tokens": self.tokens._asdict(),
            "blame": dict(self.blame),
            "critical_path": [self._step(step) for step in self.path],
            "nodes": [self._task(task) for task in self.tasks.values()],
            "plan": self.plan.json() if self.plan else None,
        }

    def mermaid(self) -> str:
        """The primitives that ran as a mermaid flowchart, with the critical path marked."""
        return of_tasks(self).mermaid()

    def html(self, path: str | Path | None = None) -> str:
        """One HTML page that needs no network; it is written to `path` if given. Raises OSError."""
        from .run_page import run_page  # only here: it takes reports itself

        page = run_page(self)
        if path is not None:
            Path(path).write_text(page, encoding="utf-8")
        return page

    def _repr_html_(self) -> str:
        from .page import framed

        return framed(self.html(), f"run {self.run}")

    def _lines(self) -> Iterator[str]:
        whole = self.seconds * 1e3
        yield f"run {self.run} of {self.program!r}: {self.state} after {milliseconds(whole)}"
        if any(self.tokens):
            yield str(self.tokens)
        yield ""
        for phase, ms in self.blame.items():
            yield f"{milliseconds(ms):>9}  {ms / whole:4.0%}  {phase}"
        yield ""
        yield "critical path:"
        for step in self.path:
            yield from self._text(step)

    def _text(self, step: Step) -> Iterator[str]:
        task = step.task
        took = f"{milliseconds(task.work_ms)}, predicted {milliseconds(task.predicted_ms)}"
        yield f"{milliseconds(step.start_s * 1e3):>9}  {task.name} on {task.worker}: {took}"
        yield f"{'':9}    {begun_by(step)}"
        for wait in waits(step, self.tasks.values()):
            yield f"{'':9}    {milliseconds(wait.ms)} {wait.text}"

    def _step(self, step: Step) -> dict[str, Any]:
        return {
            "node": step.task.node,
            "label": step.task.label,
            "start": step.start_s * 1e3,
            "milliseconds": step.ms,
            "begun_by": begun_by(step),
            "after": step.cause.task.node if step.cause else None,
            "phases": blame([step]),
            "waits": [asdict(wait) for wait in waits(step, self.tasks.values())],
        }

    def _task(self, task: Task) -> dict[str, Any]:
        return {
            "node": task.node,
            "label": task.label,
            "location": task.location,
            "worker": task.worker,
            "kind": task.kind,
            "operands": task.operands,
            "ready": task.ready_s * 1e3,
            "finished": task.finished_s * 1e3,
            "worked": task.work_ms,
            "waited": task.wait_ms,
            "predicted": task.predicted_ms,
            "critical": task.node in self.critical,
            "cached_tokens": task.cached_tokens,
            "fetched_tokens": task.fetched_tokens,
            "computed_tokens": task.computed_tokens,
            "generated_tokens": task.generated_tokens,
        }
