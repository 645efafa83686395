"""Runs the batch planner by itself: no tensors, a made-up clock, tokens "sampled" by rule."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from weft.runtime.kv.cache import KVCache
from weft.runtime.llm.limits import Limits
from weft.runtime.llm.planner import Planner, StepPlan
from weft.runtime.llm.sequence import Job, Sequence

__all__ = ["Harness", "counts", "distinct", "make", "make_job", "sampled"]


def make_job(
    id_: int,
    tokens: Iterable[int],
    max_new: int = 0,
    *,
    priority: int = 0,
    arrival: float = 0.0,
    tails: tuple[list[int], ...] = (),
    ahead: bool = False,
    head_start: float = 0.0,
) -> Job:
    ids = np.array(list(tokens), dtype=np.int64)
    return Job(
        id=id_,
        namespace="",
        priority=priority,
        arrival=arrival,
        trunk=Sequence(ids, len(ids) + max_new),
        prompt=len(ids),
        max_new=max_new,
        needs_logits=bool(max_new or tails),
        ahead=ahead,
        head_start=head_start,
        tails=tuple(np.array(tail, dtype=np.int64) for tail in tails),
    )


@dataclass
class Harness:
    """Runs a planner as an engine would."""

    planner: Planner
    step_seconds: Callable[[StepPlan], float] = lambda plan: 1.0
    endings: dict[int, int] = field(default_factory=dict)  # tokens after which the output of a job ends
    verifies: bool = True  # checks every slot after every step
    draft: Callable[[Job], list[int]] = lambda job: []  # what is drafted behind a sampled token
    now: float = 0.0
    plans: list[StepPlan] = field(default_factory=list)
    done: list[Job] = field(default_factory=list)

    def step(self) -> StepPlan:
        assert len(self.plans) < 5000, "the planner goes round in circles"
        plan = self.planner.plan(self.now)
        self.now += self.step_seconds(plan)
        completing = [
            chunk.job
            for chunk in plan.chunks
            if chunk.sequence is chunk.job.trunk and chunk.sequence.remaining <= chunk.count
        ]
        self.planner.commit(plan, self.now)
        for job in completing:
            if job.max_new:
                self._sample(job)
        for job in plan.jobs():
            if not job.remaining or (job.max_new and job.generated == self.endings.get(job.id, job.max_new)):
                self.planner.finish(job, self.now)
                self.done.append(job)
        if self.verifies:
            self.planner.check()
        self.plans.append(plan)
        return plan

    def _sample(self, job: Job) -> None:
        """Append a token, and further ones while the draft says what is sampled."""
        trunk, draft = job.trunk, job.trunk.draft
        held = 0
        while True:
            token = sampled(job)
            trunk.append(token)
            if held == len(draft) or token != draft[held] or job.generated == job.max_new:
                break
            held += 1
        trunk.settle(trunk.length - 1)
        trunk.propose(self.draft(job)[: max(job.max_new - job.generated - 1, 0)])

    def run(self) -> list[StepPlan]:
        while not self.planner.idle:
            assert self.step().jobs(), "a step that does nothing would be repeated for ever"
        return self.plans


def make(total: int = 1000, **limits: Any) -> Harness:
    usual = Limits(context_length=10_000, token_budget=16, max_running=8, aging_seconds=10.0)
    return Harness(Planner(KVCache(total), replace(usual, **limits)))


def sampled(job: Job) -> int:
    """The token that a job samples next."""
    return (job.id + job.generated) % 50


def counts(plan: StepPlan) -> dict[int, int]:
    return {chunk.job.id: chunk.count for chunk in plan.chunks}


def distinct(job: int, length: int) -> range:
    return range(1000 * job, 1000 * job + length)
