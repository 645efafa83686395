"""The engine's side of each request: what it wants of a step's logits, and the events it answers with."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, ParamSpec

import torch

from weft.graph.sampling import Sampling
from weft.kernels.sampling import Draw

from .grammar import Matcher
from .lookup import MOST_DRAFTED, Drafting, Lookup
from .planner import Chunk
from .requests import Delta, Event, Failed, Finished, Likeliest, PromptDone, Scored, Sink, Timings, Weighed
from .sequence import Job
from .text import Stream

__all__ = ["GenerateTask", "PrefillTask", "ScoreTask", "Task", "likeliest"]

P = ParamSpec("P")
FinishReason = Literal["stop", "length"]


@dataclass(slots=True, eq=False)
class PrefillTask:
    """A request that fills the cache; also what all tasks have in common."""

    job: Job
    sink: Sink
    submitted: float  # seconds on the engine's clock
    admitted: float = 0.0
    events: list[Event] = field(default_factory=list)  # of the present step
    prompt_done: bool = False
    done: bool = False
    failed: bool = False

    def guard(self, action: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Do something that concerns this task alone; an exception fails the task, not its batch."""
        try:
            action(*args, **kwargs)
        except Exception as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """End without a result; a task that has ended stays as it is."""
        if self.done:
            return
        self.events.append(Failed(error))
        self.done = self.failed = True

    def admit(self, now: float) -> None:
        """Note the time of the first admission."""
        self.admitted = self.admitted or now

    def wanted(self, chunk: Chunk) -> range:
        """The tokens of a planned chunk after which logits are needed, counted from its start."""
        return range(0)

    def advance(self, now: float) -> None:
        """Take note of computed tokens, once a step has been committed."""
        if not (self.done or self.prompt_done) and self.job.trunk.computed >= self.job.prompt:
            self.prompt_done = True
            self._prompt_is_done(now)

    def _prompt_is_done(self, now: float) -> None:
        self.events.append(self._prompt_event())
        self.done = True

    def _prompt_event(self) -> PromptDone:
        return PromptDone(self.job.cached_tokens, self.job.computed_tokens)


@dataclass(slots=True, eq=False, kw_only=True)
class GenerateTask(PrefillTask):
    """A request that samples tokens."""

    sampling: Sampling
    eos_ids: frozenset[int]
    stream: Stream
    matcher: Matcher | None = None
    drafts: bool = False  # whether text that the grammar forces is drafted
    lookup: Lookup | None = None  # drafts from the context
    promised: float = 0.0  # tokens that the draft will probably save
    logprobs: int | None = None
    first_token: float = 0.0
    taken: int = 0  # tokens sampled in the present step, an end of sequence included
    held: int = 0  # drafted tokens of the present step that were sampled
    _weights: torch.Tensor | None = None  # [tokens, vocab], of the next tokens
    _weighed: list[Weighed] = field(default_factory=list)

    def wanted(self, chunk: Chunk) -> range:
        """The last token of the sequence and its draft, if the chunk completes it."""
        return range(chunk.sequence.remaining - 1, chunk.count)

    @property
    def foreseeable(self) -> bool:
        """Whether the next step can be begun before the present one's token is known."""
        return self.matcher is None and self.logprobs is None

    def draws(self, count: int, behind: int = 0) -> list[Draw]:
        """How the next tokens are to be drawn, or those that follow `behind` further ones."""
        s, first = self.sampling, self.job.generated + behind
        return [Draw(s.temperature, s.top_k, s.top_p, s.seed, first + index) for index in range(count)]

    def weigh(self, logits: torch.Tensor) -> None:
        """Take the logits [tokens, vocab] of the next tokens as the model gave them."""
        self._weights = logits.log_softmax(dim=-1)

    def fill(self, mask: torch.Tensor, row: int) -> None:
        """Enter the tokens that the grammar allows into rows of an int32 bitmask, from `row` on."""
        assert self.matcher is not None
        self.matcher.fill(mask, row, self.job.trunk.draft)

    def accept(self, tokens: Sequence[int], now: float, drafting: Drafting) -> None:
        """Take the sampled token, and those sampled behind each drafted one, while the draft holds.

        Then draft the next ones; where the next step has been begun already, only weigh what that promises.
        """
        trunk, draft = self.job.trunk, self.job.trunk.draft
        first, self.taken, self.held = trunk.length, 0, 0
        text, reason = "", None
        for index, token in enumerate(tokens):
            piece, reason, token = self._take(index, token)
            if self.lookup is not None:
                self.lookup.take(token)
            text += piece
            if reason is not None or index == len(draft) or token != draft[index]:
                break
            self.held += 1
        trunk.settle(first + self.held)
        ids = tuple(trunk.tokens[first : trunk.length].tolist())
        if reason is not None:
            self._finish(text, ids, reason, now)
            return
        self.events.append(Delta(text, ids))
        room = min(self.job.max_new - self.job.generated - 1, MOST_DRAFTED)
        drafted = self._draft(room, drafting) if room else ()
        likely = self.lookup.likely[: len(drafted)] if self.lookup is not None else []
        self.promised = sum(likely[1:] if drafting.ahead else likely)
        if not drafting.ahead:
            trunk.propose(drafted)

    def withdraw(self) -> None:
        """Do without the draft in the next step."""
        self.job.trunk.propose(())

    def _take(self, index: int, token: int) -> tuple[str, FinishReason | None, int]:
        """Append a sampled token: its text, why the output ends with it, and what the grammar made of it."""
        if self.matcher is not None:
            token = self.matcher.accept(token)
        self.taken += 1
        if token in self.eos_ids:
            return "", "stop", token
        self.job.trunk.append(token)
        if self._weights is not None:
            weights = self._weights[index]
            (top,) = likeliest(weights[None], self.logprobs or 0)
            self._weighed.append(Weighed(token, weights[token].item(), top))
        text = self.stream.push(token)
        if self.stream.stopped or (self.matcher is not None and self.matcher.finished):
            return text, "stop", token
        return text, "length" if self.job.generated >= self.job.max_new else None, token

    def _draft(self, room: int, drafting: Drafting) -> Sequence[int]:
        """What is forced, or else what probably follows, up to an end: nothing is computed behind that."""
        if self.drafts and self.matcher is not None and (forced := self.matcher.forced()):
            return forced[:room]
        room = min(room, drafting.most)
        if self.lookup is None or not room:
            return ()
        draft = self.lookup.draft(self.job.trunk.tokens[: self.job.trunk.length], room, drafting.least)
        return list(itertools.takewhile(lambda token: token not in self.eos_ids, draft))

    def _prompt_is_done(self, now: float) -> None:
        self.first_token = now
        self.events.append(self._prompt_event())

    def _finish(self, text: str, ids: tuple[int, ...], reason: FinishReason, now: float) -> None:
        final = self.stream.finish()
        if ids or text or final.delta:
            self.events.append(Delta(text + final.delta, ids))
        timings = Timings(
            queue=self.admitted - self.submitted,
            prefill=self.first_token - self.admitted,
            decode=now - self.first_token,
        )
        cached, computed = self.job.cached_tokens, self.job.computed_tokens
        weighed = tuple(self._weighed[: len(final.ids)])
        self.events.append(
            Finished(final.text, final.ids, final.tail, reason, cached, computed, timings, weighed)
        )
        self.done = True


@dataclass(slots=True, eq=False, kw_only=True)
class ScoreTask(PrefillTask):
    """A request that weighs options."""

    options: tuple[tuple[int, ...], ...]
    top: int = 0
    logprobs: list[list[float]] = field(default_factory=list)
    likeliest: list[list[Likeliest]] = field(default_factory=list)

    def wanted(self, chunk: Chunk) -> range:
        """The prefix's last token, and every token of the options that another one follows."""
        if chunk.sequence is self.job.trunk:
            completes = chunk.sequence.remaining == chunk.count
            return range(chunk.count - 1, chunk.count) if completes else range(0)
        return range(chunk.count)

    def targets(self, chunk: Chunk) -> list[tuple[int, int]]:
        """Whose log-probabilities are wanted: tokens, each with its place among the wanted ones' logits."""
        if chunk.sequence is self.job.trunk:
            return [(0, option[0]) for option in self.options]
        start = chunk.sequence.computed - self.job.prompt + 1
        return list(enumerate(self.options[self._option_of(chunk)][start : start + chunk.count]))

    def receive(self, chunk: Chunk, logprobs: Sequence[float], likeliest: Sequence[Likeliest]) -> None:
        """Take those of the targets, and the likeliest at each place, before the chunk is committed."""
        if chunk.sequence is self.job.trunk:
            self.logprobs = [[value] for value in logprobs]
            self.likeliest = [list(likeliest) for _ in self.options if self.top]
            return
        branch = self._option_of(chunk)
        self.logprobs[branch] += logprobs
        if self.top:
            self.likeliest[branch] += likeliest

    def advance(self, now: float) -> None:
        """Answer once all options have been weighed."""
        job = self.job
        if not self.done and job.trunk.computed >= job.prompt and not job.remaining:
            logprobs = tuple(map(tuple, self.logprobs))
            top = tuple(map(tuple, self.likeliest))
            self.events.append(Scored(logprobs, job.cached_tokens, job.computed_tokens, top))
            self.done = True

    def _option_of(self, chunk: Chunk) -> int:
        """The option that a branch belongs to: options of one token have no branch."""
        longer = [index for index, option in enumerate(self.options) if len(option) > 1]
        return longer[self.job.branches.index(chunk.sequence)]


Task = PrefillTask | GenerateTask | ScoreTask


def likeliest(logprobs: torch.Tensor, count: int) -> list[Likeliest]:
    """The `count` largest of each row of log-probabilities [rows, vocab], with their tokens."""
    if not count:
        return [()] * len(logprobs)
    values, ids = logprobs.topk(min(count, logprobs.shape[-1]))
    return [tuple(zip(*row, strict=True)) for row in zip(ids.tolist(), values.tolist(), strict=True)]
