"""A model of the LLM engine: continuous batching with chunked prefill over one pool of KV.

It follows `runtime/llm/planner.py`: a step decodes all that is being written and reads chunks of prompts up
to its token budget; who waits is admitted by the output that is expected, in order of rank, unless somebody
is about to read the same prefix; when the pool runs dry, the least advanced request is set back. Steps in
which nothing but decodes happens are taken many at a time, so that a simulated second costs no more than its
events.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from .cache import CacheModel, Path, shared_tokens
from .clock import Alarm, Clock
from .profiles import LlmProfile
from .spread import Stretch

__all__ = ["Job", "LlmModel"]

_SHARED_PREFIX = 16  # tokens: a shorter uncached prefix is not worth waiting for
_PREFILL_SHARE = 4  # prompts may use at least 1/4 of the budget, however many decodes run
_AGING_S = 5.0  # of waiting that one step of priority is worth


@dataclass(eq=False)
class Job:
    """One request."""

    path: Path  # of the prompt
    done: Callable[[Job], None]
    writes: int = 0  # tokens that it will write
    expected: float = 0.0  # tokens that it is expected to write
    written_path: Path = ()  # of the prompt with what is written
    options: float = 0.0  # tokens of choices to weigh, which nobody continues
    priority: float = 0.0
    head_start: float = 0.0  # seconds that it counts as having waited before it came
    begun: Callable[[Job], None] = lambda job: None
    """Its prompt has been read, and it begins to write."""
    cached: float = 0.0  # tokens found at the first admission
    computed: float = 0.0  # tokens read now
    arrived: float = 0.0
    admitted: float = -1.0
    first_token: float = -1.0
    finished: float = -1.0
    present: float = 0.0  # tokens of the prompt, and of the options, whose KV is there
    written: int = 0
    kept: int = 0  # tokens that it had written before it was set back; they are read again
    owned: float = 0.0  # tokens of KV that are this job's alone
    locked: int | None = None
    running: bool = False

    prompt: float = field(init=False)  # tokens to read in all

    def __post_init__(self) -> None:
        self.prompt = (self.path[-1].tokens if self.path else 0.0) + self.options

    @property
    def remaining(self) -> float:
        """Tokens still to be read before the first is written."""
        return self.prompt + self.kept - self.present

    @property
    def rank(self) -> float:
        """The order of jobs."""
        return self.arrived - self.head_start - self.priority * _AGING_S


@dataclass
class _Span:
    """Steps that are under way, all alike but for the contexts that grow."""

    start: float
    steps: int
    first_ms: float
    growth_ms: float  # that each step takes longer than the one before
    decodes: list[Job]
    chunks: list[tuple[Job, float]]
    alarm: Alarm | None = field(default=None)

    def seconds(self, steps: int) -> float:
        """How long so many steps take."""
        return (steps * self.first_ms + self.growth_ms * steps * (steps - 1) / 2) / 1e3

    def steps_by(self, seconds: float) -> int:
        """The steps that are over, or under way, after so many seconds."""
        if self.growth_ms <= 0:
            return max(math.ceil(seconds * 1e3 / self.first_ms - 1e-9), 1)
        half = self.first_ms - self.growth_ms / 2
        root = math.sqrt(half * half + 2 * self.growth_ms * seconds * 1e3)
        return max(math.ceil((root - half) / self.growth_ms - 1e-9), 1)


class LlmModel:
    """Serves jobs on one device."""

    def __init__(self, profile: LlmProfile, clock: Clock, seed: str = "") -> None:
        self.profile = profile
        self.cache = CacheModel(profile.kv_slots)
        self.waiting: list[Job] = []  # by rank
        self.running: list[Job] = []  # by rank
        self.retractions = 0
        self.busy_s = 0.0
        self.after_step: Callable[[], None] = lambda: None
        """Called when a step is over: jobs have read or written, or are gone."""
        self._clock = clock
        self._reading, self._per_token = profile.costs.prefill_terms, profile.costs.decode_terms[2]
        self._stretch = Stretch(profile.spread, seed)
        self._span: _Span | None = None

    def submit(self, job: Job) -> None:
        """Queue a job."""
        job.arrived = self._clock.now
        insort(self.waiting, job, key=_rank)
        self._interrupt()

    def cancel(self, job: Job) -> None:
        """Remove a job before the next step; nobody hears of it again."""
        if job in self.waiting:
            self.waiting.remove(job)
        elif job in self.running:
            self._free(job)
            self.running.remove(job)
            self._interrupt()

    def is_reading(self, path: Path, held: float) -> bool:
        """Whether a job is about to read more than `held` tokens of a prompt."""
        return _reads(self.running, path, held) or _reads(self.waiting, path, held)

    def _interrupt(self) -> None:
        """Let what has changed be seen after the step that is under way."""
        span, now = self._span, self._clock.now
        if span is None:
            self._span = _Span(now, 0, 0.0, 0.0, [], [])
            self._span.alarm = self._clock.at(now, self._end_span)  # after all that happens at this time
        elif span.steps > 1 and span.alarm is not None:
            steps = min(span.steps_by(now - span.start), span.steps)
            if steps < span.steps:
                span.alarm.call_off()
                self._allot(span.decodes, steps - span.steps)
                span.steps = steps
                span.alarm = self._clock.at(span.start + span.seconds(steps), self._end_span)

    # ---- steps

    def _end_span(self) -> None:
        span = self._span
        assert span is not None
        now = self._clock.now
        self.busy_s += now - span.start
        for job, tokens in span.chunks:
            if job.running:
                self._read(job, tokens)
        for job in span.decodes:
            if job.running:
                job.written += span.steps
        for job in [*span.decodes, *(job for job, _ in span.chunks)]:
            if job.running and not job.remaining and job.written >= job.writes:
                self._finish(job)
        self._begin_span(after_prompt=bool(span.chunks))
        self.after_step()

    def _read(self, job: Job, tokens: float) -> None:
        job.present += tokens
        job.computed += tokens
        if job.remaining:
            self._publish_blocks(job)
            return
        self._publish(job, job.path, job.owned - job.options - job.kept)
        if job.writes:
            job.written = job.kept + 1
            if job.first_token < 0:
                job.first_token = self._clock.now
                job.begun(job)

    def _begin_span(self, *, after_prompt: bool) -> None:
        """Plan the next steps and let them begin, if there is anything to do."""
        self._span = None
        decodes = self._room_for_decodes()
        most = self.profile.token_budget
        budget = float(max(most - len(decodes), most // _PREFILL_SHARE))
        chunks: list[tuple[Job, float]] = []
        for job in self.running:
            if not job.written:
                budget -= self._chunk(job, budget, chunks)
        while self.running and not (decodes or chunks):
            self._set_back()
            for job in self.running:
                budget -= self._chunk(job, budget, chunks)
        self._admit(budget, chunks)
        if not (decodes or chunks):
            return
        slow_ms = self.profile.after_prompt_ms if after_prompt and decodes else 0.0
        first_ms, growth_ms = self._step_ms(decodes, chunks, slow_ms)
        steps = 1 if chunks or slow_ms else self._steps_alike(decodes, first_ms)
        now = self._clock.now
        span = self._span = _Span(now, steps, first_ms, growth_ms, decodes, chunks)
        span.alarm = self._clock.at(now + span.seconds(steps), self._end_span)

    def _allot(self, decodes: list[Job], steps: int) -> None:
        """Give each of them KV for so many tokens more."""
        for job in decodes:
            if job.running:
                job.owned += steps
                self.cache.running += steps

    def _steps_alike(self, decodes: list[Job], first_ms: float) -> int:
        """Until one ends, the pool might run dry, or another stretch is due."""
        until_end = min(job.writes - job.written for job in decodes)
        until_dry = 1 + int(self.cache.available // len(decodes))
        steps = max(int(min(until_end, until_dry, self._stretch.steps(first_ms))), 1)
        self.cache.make_room((steps - 1) * len(decodes))
        self._allot(decodes, steps - 1)
        return steps

    def _step_ms(
        self, decodes: list[Job], chunks: list[tuple[Job, float]], slow_ms: float
    ) -> tuple[float, float]:
        """The time of the first step, and what each further one takes more."""
        ms, growth = 0.0, 0.0
        if decodes:
            contexts = sum(job.prompt + job.written for job in decodes)
            if self.profile.shares_prefixes:
                contexts = min(sum(job.owned for job in decodes) + self.cache.locked, contexts)
            ms = self.profile.steps(len(decodes)) + self._per_token * contexts
            growth = self._per_token * len(decodes)
        if chunks:
            base, each, per_pair = self._reading
            ms = max(ms, base) + self.profile.prompt_ms * (len(chunks) - 1)
            ms += sum(each * n + per_pair * n * (job.present + n / 2) for job, n in chunks)
        stretch = self._stretch.at(self._clock.now)
        return (ms + slow_ms) * stretch, growth * stretch

    def _room_for_decodes(self) -> list[Job]:
        """Who decodes in the next step; each has been given the KV for it."""
        decodes = [job for job in self.running if job.written]
        while len(decodes) > self.cache.available and len(self.running) > 1:
            self._set_back()
            decodes = [job for job in self.running if job.written]
        self.cache.make_room(len(decodes))
        self._allot(decodes, 1)
        return decodes

    def _chunk(self, job: Job, budget: float, chunks: list[tuple[Job, float]]) -> float:
        """Read as much of a prompt as the budget and the pool allow."""
        tokens = min(job.remaining, budget, self.cache.available)
        if tokens <= 0:
            return 0.0
        self.cache.make_room(tokens)
        self.cache.running += tokens
        job.owned += tokens
        chunks.append((job, tokens))
        return tokens

    # ---- admission

    def _admit(self, budget: float, chunks: list[tuple[Job, float]]) -> None:
        for job in list(self.waiting):
            if budget <= 0 or len(self.running) >= self.profile.max_running:
                return
            needs_one = 1.0 if job.writes or job.options else 0.0
            held = self.cache.match(job.path, self._clock.now)
            held = min(held, job.prompt - needs_one)
            if _reads(self.running, job.path, held):  # what `job` would else read again
                continue
            locked = self.cache.lock(job.path)
            if not self._fits(job, held):
                self.cache.unlock(locked)
                return
            self._start(job, held, locked)
            if job.remaining:
                budget -= self._chunk(job, budget, chunks)
            else:
                chunks.append((job, 0.0))

    def _start(self, job: Job, held: float, locked: int | None) -> None:
        if job.admitted < 0:
            job.admitted, job.cached = self._clock.now, held
        job.present, job.locked, job.running = held, locked, True
        self.waiting.remove(job)
        insort(self.running, job, key=_rank)

    def _fits(self, job: Job, held: float) -> bool:
        """Whether the pool can be expected to hold the job beside all that run; alone it always may."""
        if not self.running:
            return True
        needed = job.prompt + job.kept - held + job.expected + sum(map(_to_come, self.running))
        return needed <= self.cache.available

    # ---- the ends of jobs

    def _finish(self, job: Job) -> None:
        self._publish(job, job.written_path or job.path, job.owned - job.options)
        self._free(job)
        self.running.remove(job)
        job.finished = self._clock.now
        job.done(job)

    def _set_back(self) -> None:
        """Send the least advanced job back to the queue."""
        job = min(self.running, key=lambda job: (job.priority, job.written, job.present, -job.arrived))
        job.kept = max(job.kept, job.written)
        self._free(job)
        self.running.remove(job)
        insort(self.waiting, job, key=_rank)
        self.retractions += 1

    def _publish_blocks(self, job: Job) -> None:
        """Hand over the blocks of a prompt that have been read while the rest of it is read."""
        path = [boundary for boundary in job.path if boundary.tokens <= job.present]
        if path and (tokens := job.owned - (job.present - path[-1].tokens)) > 0:
            self._publish(job, path, tokens)

    def _publish(self, job: Job, path: Path, tokens: float) -> None:
        """Hand what has been computed to the cache, which may hold it already, and lock it instead."""
        self.cache.running -= tokens
        job.owned -= tokens
        self.cache.insert(path, self._clock.now)
        locked = self.cache.lock(path)
        self.cache.unlock(job.locked)
        job.locked = locked

    def _free(self, job: Job) -> None:
        self.cache.running -= job.owned
        self.cache.unlock(job.locked)
        job.owned, job.locked, job.running = 0.0, None, False
        job.present, job.written = 0.0, 0


def _reads(jobs: Iterable[Job], path: Path, held: float) -> bool:
    """Whether one of them is about to read more than `held` tokens of a prompt."""
    for job in jobs:
        begins_alike = job.remaining and job.path and job.path[0] == path[0]
        if begins_alike and shared_tokens(path, job.path) - max(held, job.present) >= _SHARED_PREFIX:
            return True
    return False


def _rank(job: Job) -> float:
    return job.rank


def _to_come(job: Job) -> float:
    """The tokens that a running job is still going to need."""
    return job.remaining + max(job.expected - job.written, 1.0 if job.writes else 0.0)
