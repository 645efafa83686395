"""The engine of a language model that an OpenAI-compatible server runs.

A context is a value here as everywhere, and grows without a request: the server reads a prompt when something
is to be written after it, and finds what it has read before in its own cache, as prompts that begin alike
have the same ids.
"""

from __future__ import annotations

import time
from contextlib import aclosing

from weft.graph.ops.base import EngineKind
from weft.graph.ops.primitive import Decode, Prefill, Rate, Score, Weigh
from weft.graph.values import Json
from weft.proto import worker_pb2
from weft.runtime.config import ModelSettings
from weft.runtime.llm.context import Context
from weft.runtime.llm.requests import Likeliest, Scored

from ...faults import TaskError
from ..base import Emit, Gauges, HeldKv, Operands, Outcome, Stream, Task, Timing
from ..contexts import context_of, read, tokenize, write
from ..judging import expect_room, rate, score, start_of
from ..rating import all_of
from ..scoring import Aligned, align
from ..weighing import as_data, weighed_prompt
from .answer import Answer, Usage, expect_form, likeliest
from .client import Client, Completion
from .loading import MOST_REQUESTS, Served, connect, describe

__all__ = ["UpstreamEngine"]


class UpstreamEngine:
    """Prefill, decode and score on a model elsewhere."""

    kind: EngineKind = "llm"

    def __init__(self, settings: ModelSettings, url: str, *, key: str = "") -> None:
        """`url`: that of the settings. `key`: what the server wants; it is never shown."""
        self._settings = settings
        self._client = Client(url, key, settings.max_running or MOST_REQUESTS)
        self._found: Served | None = None

    @property
    def model(self) -> str:
        """What graphs call the model."""
        return self._settings.name

    @property
    def _served(self) -> Served:
        assert self._found is not None, "the engine has not been started"
        return self._found

    def info(self) -> worker_pb2.EngineInfo:
        """The model and its tokenizer; it has neither KV nor a profile."""
        return describe(self._settings, self._served)

    def gauges(self) -> Gauges:
        """Nothing is held here."""
        return Gauges()

    async def start(self) -> None:
        """Wait for the server. Raises StartError."""
        self._found = await connect(self._settings, self._client)

    async def stop(self) -> None:
        """Hang up."""
        await self._client.close()

    async def execute(self, task: Task, operands: Operands, emit: Emit) -> Outcome:
        """Compute a prefill, a decode, a score, a weighing or ratings."""
        op = task.node.op
        context = context_of(operands.get("kv"), self._served.tokenizer, getattr(op, "ids", ()))
        match op:
            case Prefill():
                return Outcome((self._held(task, read(context, op.pieces, operands)),))
            case Decode():
                await tokenize(context)
                return await self._decode(task, op, context, emit)
            case Score():
                await tokenize(context)
                return await self._score(task, op, context)
            case Weigh():
                return await self._probe(task, op, context.ids())
            case Rate():
                return await self._rate(task, op, operands)
            case _:
                raise TaskError("invalid", f"an LLM engine does not run {op.label()!r}")

    async def _decode(self, task: Task, op: Decode, context: Context, emit: Emit) -> Outcome:
        ids, served = context.ids(), self._served
        self._check_room(len(ids))
        fields = served.dialect.generation(op.sampling, op.constraint, op.logprobs, task.namespace)
        most = min(op.sampling.max_tokens, served.context_length - len(ids))
        answer = Answer(len(ids), op.sampling.stop, task.stream, emit)
        asked = time.monotonic()
        async with self._client.turn():
            sent = time.monotonic()
            body = self._body(ids, {**fields, "max_tokens": most})
            if task.stream is Stream.NONE:
                answer.take(await self._client.complete(body))  # no event for each token
            else:
                async with aclosing(self._client.stream(body)) as events:
                    async for event in events:
                        answer.take(event)
        finish = answer.finish()
        ended = time.monotonic()
        if op.constraint is not None:
            expect_form(answer.text, op.constraint, finish)
        text = answer.written(served.tokenizer)
        begun = answer.first_at if answer.first_at and task.stream is not Stream.NONE else sent
        timing = Timing(
            queued=sent - asked,
            prefill=begun - sent,
            decode=ended - begun,
            cached_tokens=answer.usage.cached,
            computed_tokens=len(ids) - answer.usage.cached,
            generated_tokens=answer.generated,
            prompt_tokens=len(ids),
            finish=finish,
        )
        held = self._held(task, write(context, text))
        if op.logprobs is None:
            return Outcome((held, text), timing)
        weighed = answer.weighed(len(text.ids), op.logprobs)
        return Outcome((held, text, Json(as_data(weighed, served.tokenizer))), timing)

    async def _score(self, task: Task, op: Score, context: Context) -> Outcome:
        options = align(context.ids(), [context.append_text(choice).ids() for choice in op.choices])
        started = time.monotonic()
        results, scored = await score(op, options, self._served.tokenizer, lambda o: self._weigh(task, o))
        return Outcome(results, _reading(started, [scored], len(context)))

    async def _probe(self, task: Task, op: Weigh, ids: tuple[int, ...]) -> Outcome:
        started = time.monotonic()
        start = start_of(op, len(ids))
        first = max(start, 1)  # nothing comes before token 0 that could foretell it
        self._check_room(len(ids))
        scored = Scored((), 0, 0)
        if first < len(ids):
            scored = await self._weigh(task, Aligned(ids[:first], (ids[first:],)), op.top)
        tokens = weighed_prompt(ids[start:], scored)
        data = as_data(tokens, self._served.tokenizer)
        return Outcome((Json(len(ids)), Json(data)), _reading(started, [scored], len(ids)))

    async def _rate(self, task: Task, op: Rate, operands: Operands) -> Outcome:
        started = time.monotonic()
        results, weighed = await rate(op, operands, self._served.tokenizer, lambda o: self._weigh(task, o))
        return Outcome(results, _reading(started, weighed, 0))

    async def _weigh(self, task: Task, options: Aligned, top: int = 0) -> Scored:
        """The tokens of each option, one request an option."""
        prefix = options.prefix
        self._check_room(len(prefix) + max(map(len, options.options)))
        read = await all_of([self._echo(task, prefix, option, top) for option in options.options])
        return Scored(
            tuple(values for values, _, _ in read),
            sum(usage.cached for _, _, usage in read),
            sum(usage.prompt - usage.cached for _, _, usage in read),
            tuple(rivals for _, rivals, _ in read) if top else (),
        )

    async def _echo(
        self, task: Task, prefix: tuple[int, ...], option: tuple[int, ...], top: int
    ) -> tuple[tuple[float, ...], tuple[Likeliest, ...], Usage]:
        """The log-probabilities of the tokens behind a prefix, and the likeliest at their places."""
        fields = self._served.dialect.weighing(top, task.namespace)
        ids = (*prefix, *option)
        async with self._client.turn():
            found = await self._client.complete(self._body(ids, fields))
        usage = Usage(len(ids))
        usage.take(found)
        weighed = ((found.get("choices") or [{}])[0].get("logprobs")) or {}
        values = (weighed.get("token_logprobs") or [])[len(prefix) : len(ids)]
        rivals = (weighed.get("top_logprobs") or [])[len(prefix) : len(ids)] if top else ()
        if len(values) < len(option) or not all(isinstance(value, int | float) for value in values):
            raise TaskError(
                "invalid",
                f"the server at {self._settings.url} does not return the log-probabilities of a prompt "
                "('echo' with 'logprobs'), which select and rerank go by; vLLM, SGLang and weft do",
            )
        return tuple(values), tuple(likeliest(each, top) for each in rivals), usage

    def _body(self, ids: tuple[int, ...], fields: Completion) -> Completion:
        return {"model": self._served.name, "prompt": list(ids), **fields}

    def _held(self, task: Task, context: Context) -> HeldKv:
        key = f"{task.run}/%{task.node.id}"
        return HeldKv(key, context=context, model=self.model, namespace=task.namespace)

    def _check_room(self, prompt: int) -> None:
        """Refuse no prompt, and one after which nothing has room."""
        expect_room(self.model, prompt, 1, self._served.context_length)


def _reading(started: float, read: list[Scored], prompt: int) -> Timing:
    return Timing(
        prefill=time.monotonic() - started,
        cached_tokens=sum(scored.cached_tokens for scored in read),
        computed_tokens=sum(scored.computed_tokens for scored in read),
        batch=max(1, len(read)),
        prompt_tokens=prompt,
    )
