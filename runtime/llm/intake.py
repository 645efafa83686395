"""From requests to tasks: everything that can be refused at once is refused here."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from weft.runtime.kv.radix import Tokens

from .config import ModelShape
from .errors import RequestError
from .planner import Planner
from .requests import GenerateRequest, PrefillRequest, Request, ScoreRequest, Sink
from .sequence import Job, Sequence
from .tasks import GenerateTask, PrefillTask, ScoreTask, Task
from .text import TextBackend

__all__ = ["Entry", "Intake"]

_MOST_LIKELIEST = 128  # tokens that come with one that is weighed


class Entry(NamedTuple):
    """A request that can be served, and its task."""

    task: Task
    request: Request

    @property
    def handle(self) -> int:
        """By which the request is cancelled."""
        return self.task.job.id


class Intake:
    """Validates requests and turns them into tasks; any thread may call it."""

    def __init__(self, text: TextBackend, config: ModelShape, planner: Planner) -> None:
        self._text = text
        self._vocab = config.vocab_size
        self._planner = planner
        self._context = planner.limits.context_length

    def task(self, handle: int, request: Request, sink: Sink, now: float) -> Task:
        """The task of `request`; raises `RequestError` with the reason if it can never be served."""
        match request:
            case PrefillRequest():
                job = self._job(handle, request, self._ids(request.ids, "ids"), now, needs_logits=False)
                job.ahead = request.ahead
                task: Task = PrefillTask(job, sink, now)
            case GenerateRequest():
                task = self._generate(handle, request, sink, now)
            case ScoreRequest():
                task = self._score(handle, request, sink, now)
        self._planner.validate(task.job)
        return task

    def _generate(self, handle: int, request: GenerateRequest, sink: Sink, now: float) -> GenerateTask:
        sampling = request.sampling
        self._text.check(sampling.stop, request.constraint)
        if sampling.ignore_eos and request.constraint is not None:
            raise RequestError(
                "a constrained text ends with its form: ignore_eos does not go with a constraint"
            )
        ids = self._ids(request.ids, "ids")
        room = max(self._context - len(ids), 1)
        job = self._job(handle, request, ids, now, max_new=min(sampling.max_tokens, room))
        stream = self._text.stream(sampling.stop)
        self._check_top(request.logprobs or 0, "logprobs")
        return GenerateTask(
            job,
            sink,
            now,
            sampling=sampling,
            eos_ids=frozenset() if sampling.ignore_eos else self._text.eos_ids,
            stream=stream,
            logprobs=request.logprobs,
        )

    def _score(self, handle: int, request: ScoreRequest, sink: Sink, now: float) -> ScoreTask:
        if not request.options:
            raise RequestError("options must not be empty")
        ids = self._ids(request.prefix_ids, "prefix_ids")
        options = [self._ids(option, f"options[{index}]") for index, option in enumerate(request.options)]
        # An option's first token is weighed by the trunk's logits, and its last one need not be computed.
        tails = tuple(option[:-1] for option in options if len(option) > 1)
        job = self._job(handle, request, ids, now, tails=tails)
        self._check_top(request.top, "top")
        return ScoreTask(job, sink, now, options=request.options, top=request.top)

    def _check_top(self, count: int, what: str) -> None:
        if not 0 <= count <= _MOST_LIKELIEST:
            raise RequestError(f"{what} must lie between 0 and {_MOST_LIKELIEST}, not {count}")

    def _job(
        self,
        handle: int,
        request: Request,
        ids: Tokens,
        now: float,
        *,
        max_new: int = 0,
        needs_logits: bool = True,
        tails: tuple[Tokens, ...] = (),
    ) -> Job:
        return Job(
            id=handle,
            namespace=request.namespace,
            priority=request.priority,
            head_start=request.head_start,
            arrival=now,
            trunk=Sequence(ids, len(ids) + max_new),
            prompt=len(ids),
            max_new=max_new,
            needs_logits=needs_logits,
            tails=tails,
        )

    def _ids(self, ids: tuple[int, ...], what: str) -> Tokens:
        if not ids:
            raise RequestError(f"{what} must not be empty: a model continues at least one token")
        tokens = np.asarray(ids, dtype=np.int64)
        if tokens.min() < 0 or tokens.max() >= self._vocab:
            wrong = next(token for token in ids if not 0 <= token < self._vocab)
            raise RequestError(
                f"{what} holds {wrong}, which is no token id of this model (0..{self._vocab - 1})"
            )
        return tokens
