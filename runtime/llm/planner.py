"""The batch planner: which tokens of which requests the next step computes.

Pure: jobs and a clock value in, a plan out; it owns the bookkeeping of KV slots and touches no tensor. One
step mixes all running decodes with chunks of prompts up to a token budget (chunked prefill: Agrawal et al.,
"Sarathi-Serve", OSDI 2024). While decodes wait for the step, chunks are also bounded in time: by that of a
whole budget without context, so that they shrink as their context grows; and the more urgent a decode is than
a prompt, the shorter is that prompt's chunk.

Admission reserves the output that a request is expected to produce, not the most it may; when the pool runs
dry after all, the least urgent requests are retracted: they return to the queue and go on later from what the
cache still holds.

A job whose prefix the host holds waits for it to be copied back, if that is quicker than computing it, while
others compute; if nobody else does, the device waits. What is expected to be used soon is copied back while
nobody waits to be admitted.

One order decides on admission, chunks and retraction: the *rank*, the time of arrival less what the priority
is worth, and less the head start that whoever knows the program gives the request. The first in that order
always advances, and nobody who comes later by more than that overtakes; so nobody starves, however well the
cache suits others.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from weft.runtime.kv.cache import KVCache
from weft.runtime.kv.radix import Node, Tokens, common_prefix

from .errors import RequestError
from .limits import Limits, Room
from .restores import Restores
from .sequence import Job, Sequence
from .step_cost import StepCost

__all__ = ["Chunk", "Planner", "StepPlan"]

_SHARED_PREFIX = 16  # tokens: a shorter uncached prefix is not worth waiting for
_MAX_DEFERRED = 32  # waiting jobs passed over in one step, because their prefix is being computed
_MIN_OUTPUT = 0.05  # least fraction of max_tokens that an output is expected to have
_LEARNING_RATE = 0.1  # of the expected fraction, per finished request
_RETRACTION_PENALTY = 0.2  # added to the expected fraction


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next `count` tokens of a sequence, whose slots have been allocated."""

    job: Job
    sequence: Sequence
    count: int


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What one step does."""

    chunks: list[Chunk] = field(default_factory=list)
    admitted: list[Job] = field(default_factory=list)
    retracted: list[Job] = field(default_factory=list)

    def jobs(self) -> list[Job]:
        """The jobs that the step concerns, each once."""
        return list(dict.fromkeys([*(chunk.job for chunk in self.chunks), *self.admitted]))


class Planner:
    """Queues of waiting and running jobs over one KV cache."""

    def __init__(self, cache: KVCache, limits: Limits) -> None:
        self.cache = cache
        self.limits = limits
        self.restores = Restores(cache)
        self.cost = StepCost()
        self.waiting: list[Job] = []  # sorted by rank
        self.running: list[Job] = []  # sorted by rank
        self.retractions = 0
        self.cached_tokens = 0
        """Prompt tokens found in the cache, each request counted once."""
        self.computed_tokens = 0
        """Tokens computed by steps, those of decodes left out."""
        self._output_fraction = 0.5  # of max_tokens that outputs are expected to have

    def reset(self) -> None:
        """Forget all jobs and all that is cached; the counters stay."""
        self.cache = KVCache(self.cache.total, self.cache.tier)
        self.restores.start_afresh(self.cache)
        self.waiting.clear()
        self.running.clear()

    @property
    def idle(self) -> bool:
        """Whether there is nothing to plan."""
        return not (self.waiting or self.running)

    @property
    def full(self) -> bool:
        """Whether nobody who waits could be admitted, however much memory there were."""
        return len(self.running) >= self.limits.max_running

    def validate(self, job: Job) -> None:
        """Raise `RequestError` if `job` could never run, however long it waited."""
        limit = self.limits.context_length
        longest = job.prompt + max((len(tail) + 1 for tail in job.tails), default=min(job.max_new, 1))
        if longest > limit:
            raise RequestError(
                f"the prompt of {job.prompt} tokens, with at least {longest - job.prompt} to follow, exceeds "
                f"the model's context of {limit} tokens; shorten the prompt"
            )
        if job.peak > self.cache.total:
            raise RequestError(
                f"the request may need {job.peak} KV slots (prompt {job.prompt}), but the pool has only "
                f"{self.cache.total}; lower max_tokens, shorten the prompt or raise kv_tokens"
            )

    def submit(self, job: Job) -> None:
        """Queue a job; raises `RequestError` if it could never run."""
        self.validate(job)
        worth = (job.priority - job.ahead) * self.limits.aging_seconds
        job.rank = job.arrival - job.head_start - worth
        bisect.insort(self.waiting, job, key=_rank)

    def plan(self, now: float) -> StepPlan:
        """Choose the next step's work and allocate its slots."""
        plan = StepPlan()
        self.restores.settle(now, early=not self.running)
        self._plan_decodes(plan, now)
        room = Room(self.limits, self.cost, [chunk.job for chunk in plan.chunks], now)
        yielding = [job for job in self.running if job.ahead and self._is_in_the_way(job)]
        self._plan_prefills(plan, room, [job for job in self.running if job not in yielding])
        if yielding:
            self._admit(plan, room, now)
            self._plan_prefills(plan, room, yielding)
        while self.running and not plan.chunks:
            self._make_room(plan, now)
            self._plan_prefills(plan, room, self.running)
        if not (plan.retracted or yielding):
            self._admit(plan, room, now)
        return plan

    def prefetch(self, now: float) -> bool:
        """Copy back from the host what is expected to be used, a piece at a time, between two steps.

        Says whether that has changed anything.
        """
        return not self.waiting and self.restores.prefetch(now)

    def commit(self, plan: StepPlan, now: float) -> None:
        """Record that the plan's chunks have been computed."""
        for chunk in plan.chunks:
            job, sequence = chunk.job, chunk.sequence
            if not (job.decoding and job.generated):
                job.computed_tokens += chunk.count
                self.computed_tokens += chunk.count
            sequence.computed += chunk.count
            if sequence is not job.trunk:
                self._end_branch(sequence)
            elif sequence.computed <= job.prompt:
                self._publish(job, now)
                if sequence.computed == job.prompt and not job.branches:
                    job.grow_branches()

    def look_ahead(self, jobs: list[Job]) -> bool:
        """See that each has a slot for the token after the next one; False if there are too few.

        Those who have computed a draft that came to nothing have some left.
        """
        missing = [max(job.trunk.computed + 2 - job.trunk.allocated, 0) for job in jobs]
        if sum(missing) > self.cache.available:
            return False
        slots = self.cache.allocate(sum(missing))
        for job, count, end in zip(jobs, missing, itertools.accumulate(missing), strict=True):
            job.trunk.extend(slots[end - count : end])
        return True

    def finish(self, job: Job, now: float) -> None:
        """Remove a running job that is done; the KV of its prompt and output stays in the cache."""
        if job.max_new:
            self._expect(job.generated / job.max_new)
        self._publish(job, now)
        self._free(job)
        self.running.remove(job)

    def cancel(self, job: Job) -> None:
        """Remove a job wherever it is, if anywhere; what it computed and did not publish is dropped."""
        if job.node is not None:
            self._free(job)
            self.running.remove(job)
        elif job in self.waiting:
            self.waiting.remove(job)

    def check(self) -> None:
        """Verify slot by slot that every slot has one owner; raises `AssertionError`."""
        self.cache.check()
        owned = [sequence.owned for job in self.running for sequence in (job.trunk, *job.branches)]
        owned += self.restores.owned()
        slots = np.concatenate(owned) if owned else np.empty(0, dtype=np.int64)
        assert len(np.unique(slots)) == len(slots), "two own one slot"
        assert len(slots) == self.cache.running, (
            f"jobs and restores own {len(slots)} slots, the cache counts {self.cache.running}"
        )

    def _plan_decodes(self, plan: StepPlan, now: float) -> None:
        """One token of every running decode and its draft, retracting jobs until there is a slot for each.

        If the pool or the budget have no room for all drafts, there are none.
        """
        decodes = [job for job in self.running if job.decoding]
        tokens = len(decodes) + sum(job.trunk.drafted for job in decodes)
        if tokens > self.limits.token_budget or sum(map(_missing, decodes)) > self.cache.available:
            for job in decodes:
                job.trunk.drafted = 0
        while sum(map(_missing, decodes)) > self.cache.available:
            self._make_room(plan, now)
            decodes = [job for job in self.running if job.decoding]
        missing = [_missing(job) for job in decodes]
        slots = self.cache.allocate(sum(missing))
        for job, count, end in zip(decodes, missing, itertools.accumulate(missing), strict=True):
            job.trunk.extend(slots[end - count : end])
            plan.chunks.append(Chunk(job, job.trunk, 1 + job.trunk.drafted))

    def _is_in_the_way(self, job: Job) -> bool:
        """Whether somebody who waits to be admitted should be served before a running job."""
        return bool(self.waiting) and self.waiting[0].rank < job.rank

    def _plan_prefills(self, plan: StepPlan, room: Room, jobs: Iterable[Job]) -> None:
        """Chunks of the prompts and branches of running jobs."""
        for job in jobs:
            if not job.decoding:
                self._plan_chunks(plan, job, room)

    def _plan_chunks(self, plan: StepPlan, job: Job, room: Room) -> None:
        """Chunks of one job within the step's room and the pool."""
        for sequence in job.active():
            allowed = room.for_chunk(job, sequence.computed)
            count = min(sequence.remaining, allowed, self.cache.available)
            if count <= 0:
                return
            sequence.extend(self.cache.allocate(count))
            plan.chunks.append(Chunk(job, sequence, count))
            room.take(sequence.computed, count)

    def _admit(self, plan: StepPlan, room: Room, now: float) -> None:
        """Move waiting jobs into the batch by rank; some wait for a prefix that is being computed."""
        deferred = 0
        for job in list(self.waiting):
            if len(self.running) >= self.limits.max_running or deferred >= _MAX_DEFERRED:
                return
            known = job.trunk.tokens[: job.trunk.length - job.needs_logits]
            fits = partial(self._fits, job)
            match = self.restores.match(job.namespace, known, now, self.cost, fits, alone=not self.running)
            if match is None:
                deferred += 1
                continue
            if room.for_chunk(job, len(match.slots)) <= 0:
                return
            if (other := self._computing_prefix(job, len(match.slots))) is not None:
                self._hurry(other, job)
                deferred += 1
                continue
            self.cache.lock(match.node)
            if not self._fits(job, len(match.slots)):
                self.cache.unlock(match.node)
                return
            job.trunk.share(match.slots)
            self._start(job, match.node)
            plan.admitted.append(job)
            self._plan_chunks(plan, job, room)

    def _start(self, job: Job, node: Node) -> None:
        job.node = node
        if not job.admissions:
            job.cached_tokens = job.trunk.shared
            self.cached_tokens += job.trunk.shared
        job.admissions += 1
        self.waiting.remove(job)
        bisect.insort(self.running, job, key=_rank)

    def _hurry(self, job: Job, waiting: Job) -> None:
        """Let a running job be as urgent as one that waits for it."""
        job.ahead = False
        if waiting.rank < job.rank:
            job.rank, job.head_start = waiting.rank, waiting.head_start
            self.running.sort(key=_rank)

    def is_computing(self, namespace: str, tokens: Tokens, matched: int) -> bool:
        """Whether a job is about to compute more than `matched` tokens of a prompt."""
        jobs = itertools.chain(self.running, self.waiting)
        return _computing(jobs, namespace, tokens, matched) is not None

    def _computing_prefix(self, job: Job, matched: int) -> Job | None:
        """A running job that is about to compute a prefix which `job` would else compute again."""
        tokens = job.trunk.tokens[: job.trunk.length]
        return _computing(self.running, job.namespace, tokens, matched)

    def _fits(self, job: Job, matched: int) -> bool:
        """Whether the pool can be expected to hold `job` beside all that run; alone it always may."""
        if not self.running:
            return True
        needed = self._expected_slots(job) - matched + sum(map(self._expected_slots, self.running))
        return needed <= self.cache.available

    def _expected_slots(self, job: Job) -> int:
        """The slots that a job will still ask for, if its output is of the expected length."""
        output = int(self._output_fraction * job.max_new) - job.generated
        return job.unallocated + max(output, 1 if job.max_new else 0)

    def _expect(self, fraction: float) -> None:
        """Learn from the length of a finished output."""
        moved = self._output_fraction + _LEARNING_RATE * (fraction - self._output_fraction)
        self._output_fraction = max(moved, _MIN_OUTPUT)

    def _make_room(self, plan: StepPlan, now: float) -> None:
        """Let go of what is on its way, or else send the least urgent job that runs back to the queue."""
        if self.restores.settle(now, early=True):
            return
        if len(self.running) < 2:
            raise AssertionError("a job that was admitted alone does not fit the pool")
        job = self.running.pop()
        self._publish(job, now)
        self._free(job)
        bisect.insort(self.waiting, job, key=_rank)
        plan.retracted.append(job)
        self.retractions += 1
        self._output_fraction = min(self._output_fraction + _RETRACTION_PENALTY, 1.0)

    def _publish(self, job: Job, now: float) -> None:
        """Hand what the trunk has computed to the cache and hold it by a lock instead."""
        trunk, node = job.trunk, job.node
        assert node is not None
        tokens, slots = trunk.tokens[: trunk.computed], trunk.slots[: trunk.computed]
        published = self.cache.publish(job.namespace, tokens, slots, trunk.shared, now)
        self.cache.unlock(node)
        job.node = published.node
        trunk.share(published.slots)

    def _end_branch(self, branch: Sequence) -> None:
        """Free a branch that is computed: nobody continues it."""
        if not branch.remaining:
            self.cache.release(branch.owned)
            branch.allocated = branch.shared

    def _free(self, job: Job) -> None:
        """Give up all of a running job's KV."""
        assert job.node is not None
        for sequence in (job.trunk, *job.branches):
            self.cache.release(sequence.owned)
        self.cache.unlock(job.node)
        job.node = None
        job.branches.clear()
        job.trunk.reset()


def _computing(jobs: Iterable[Job], namespace: str, tokens: Tokens, matched: int) -> Job | None:
    for job in jobs:
        trunk = job.trunk
        if job.namespace != namespace or trunk.computed >= job.prompt:
            continue
        known = max(matched, trunk.computed)
        if min(job.prompt, len(tokens)) <= known or trunk.tokens[known] != tokens[known]:
            continue  # which spares comparing all of most
        if common_prefix(trunk.tokens[: job.prompt], tokens) - known >= _SHARED_PREFIX:
            return job
    return None


def _missing(job: Job) -> int:
    """The slots that a decode's next step lacks."""
    trunk = job.trunk
    return max(trunk.length + trunk.drafted - trunk.allocated, 0)


def _rank(job: Job) -> float:
    return job.rank
