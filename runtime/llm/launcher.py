"""Begins the steps of an engine. Runs on the engine's thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from weft.kernels.sampling import sample

from .flight import Flight
from .gpu.device_model import DeviceModel
from .gpu.runner import GpuRunner
from .limits import Limits
from .lookup import MOST_DRAFTED
from .model import Model
from .options import EngineOptions
from .pace import Pace
from .planner import Planner
from .runner import ModelRunner, Runner
from .sampler import Drawn, draw_tokens, lay_out, weigh_options
from .tasks import GenerateTask, Task

__all__ = ["Launcher", "runner_for"]


class Launcher:
    """Plans steps and hands them to the device."""

    def __init__(self, planner: Planner, runner: Runner, tasks: Mapping[int, Task], *, overlap: bool) -> None:
        """`tasks`: those that have not ended, by the ids of their jobs."""
        self._planner = planner
        self._runner = runner
        self._tasks = tasks
        self._ahead = runner if overlap and isinstance(runner, GpuRunner) else None
        self._pace = Pace()
        self._ended = 0.0  # when the last step did

    def launch(self, now: float) -> Flight | None:
        """Begin a step, if there is anything to compute."""
        if self._planner.idle:
            return None
        plan = self._planner.plan(now)
        tasks = [self._tasks[job.id] for job in plan.jobs()]
        for job in plan.admitted:
            self._tasks[job.id].admit(now)
        flight = Flight(plan.chunks, tasks)
        if plan.chunks:
            with flight.guarded():
                layout = lay_out(plan.chunks, self._tasks)
                work = [(chunk.sequence, chunk.count) for chunk in plan.chunks]
                logits = self._runner.run(work, layout.rows)
                weigh_options(layout, logits)
                flight.drawn = draw_tokens(layout, logits)
        return flight

    def launch_behind(self, flight: Flight) -> Flight | None:
        """Begin the step behind one whose tokens are not known yet, if nobody waits for a place in it.

        Requests that end with these tokens take part in it for nothing. Nobody waits for a place if all are
        taken and none is sure to become free; one that becomes free nevertheless is taken a step later.
        """
        planner = self._planner
        if self._ahead is None or (planner.waiting and not planner.full):
            return None
        behind = flight.behind()
        if behind is None or (planner.waiting and len(behind.chunks) < len(flight.chunks)):
            return None
        if self._drafts_pay(behind.tasks):
            return None
        if not planner.look_ahead([chunk.job for chunk in behind.chunks]):
            return None
        following = Flight(behind.chunks, behind.tasks, ahead=True)
        with following.guarded():
            logits = self._ahead.run_ahead([chunk.sequence for chunk in behind.chunks], behind.ids)
            following.drawn = Drawn(behind.spans(), sample(logits, behind.draws()))
        return following

    def landed(self, flight: Flight, now: float) -> None:
        """Take note of when a step has ended, before anything else is done about it."""
        drafted = any(chunk.count > 1 for chunk in flight.chunks)
        if flight.ahead or (drafted and all(chunk.job.decoding for chunk in flight.chunks)):
            self._pace.learn(len(flight.chunks), now - self._ended, drafted=drafted)
        self._ended = now

    def most_drafted(self, texts: int) -> int:
        """How many tokens to draft from the context for each of so many texts.

        On a GPU no more than graphs have room for, as also logits take room, and none where a look at every
        context takes the host too long.
        """
        if self._ahead is None:
            return MOST_DRAFTED
        if not self._pace.leisurely(texts):
            return 0
        return min(self._ahead.max_running // max(texts, 1) - 1, MOST_DRAFTED)

    def weigh_drafts(self, tasks: Sequence[GenerateTask]) -> None:
        """Leave out what the next step's texts have drafted unless it pays."""
        if not self._drafts_pay(tasks):
            for task in tasks:
                task.withdraw()

    def _drafts_pay(self, tasks: Sequence[GenerateTask]) -> bool:
        """Whether drafts probably save more than beginning a step ahead of the last one's end does."""
        if self._ahead is None or not all(task.foreseeable for task in tasks):
            return True
        return sum(task.promised for task in tasks) > self._pace.price(len(tasks)) * len(tasks)


def runner_for(model: Model, slots: int, limits: Limits, options: EngineOptions) -> Runner:
    """Whoever runs such a model, with a KV pool of `slots` slots."""
    if isinstance(model, DeviceModel):
        return GpuRunner(
            model,
            slots,
            max_running=limits.max_running,
            token_budget=limits.token_budget,
            graphs=options.cuda_graphs,
            sharing=options.shared_prefixes,
        )
    return ModelRunner(model, slots)
