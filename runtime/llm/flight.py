"""A step of the engine between its beginning and its end."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from weft.kernels.sampling import Draw

from .planner import Chunk, StepPlan
from .sampler import Drawn
from .tasks import GenerateTask, Task

__all__ = ["Behind", "Flight"]

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Flight:
    """What a step computes, and for whom."""

    chunks: Seq[Chunk]
    tasks: Seq[Task]
    drawn: Drawn | None = None
    failed: bool = False
    ahead: bool = False  # whether it was begun before the step before it had ended

    def computed(self) -> StepPlan:
        """What it has computed for jobs that have not ended meanwhile."""
        return StepPlan([chunk for chunk in self.chunks if chunk.job.node is not None])

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """An error that has no owner fails all tasks of the step."""
        try:
            yield
        except Exception as error:
            _log.exception("a step of %d requests failed", len(self.tasks))
            self.failed = True
            for task in self.tasks:
                task.fail(error)

    def behind(self) -> Behind | None:
        """The step after this one, if it can be begun while nobody knows this one's tokens.

        Every request must be writing, and its tokens must decide on nothing but whether it ends. Those that
        end with this step, because they must not be longer, are left out.
        """
        drawn = self.drawn
        if drawn is None or drawn.tokens is None or len(drawn.spans) < len(self.chunks):
            return None
        if any(chunk.count > 1 for chunk in self.chunks):
            return None
        if not all(task.foreseeable for task, _ in drawn.spans):
            return None
        going = [(task, row) for task, (row, *_) in drawn.spans if _goes_on(task)]
        if not going:
            return None
        ids = drawn.tokens
        if len(going) < len(ids):
            ids = ids[[row for _, row in going]]
        tasks = [task for task, _ in going]
        return Behind([Chunk(task.job, task.job.trunk, 1) for task in tasks], tasks, ids)


def _goes_on(task: GenerateTask) -> bool:
    """Whether a request may write more than the token that is being drawn; it may have ended before that."""
    return not task.done and task.job.generated + 1 < task.job.max_new


@dataclass(slots=True, eq=False)
class Behind:
    """A step of decodes, each of the token that the step before draws for it."""

    chunks: Seq[Chunk]
    tasks: Seq[GenerateTask]
    ids: torch.Tensor  # int64 [tasks], on the device

    def draws(self) -> list[Draw]:
        """How its tokens are to be drawn."""
        return [draw for task in self.tasks for draw in task.draws(1, behind=1)]

    def spans(self) -> list[tuple[GenerateTask, range]]:
        """The rows of its tokens."""
        return [(task, range(row, row + 1)) for row, task in enumerate(self.tasks)]
