"""The engine of language models: primitives as requests to `weft.runtime.llm`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

import numpy as np

from weft.graph.ops.base import EngineKind
from weft.graph.ops.primitive import Decode, Prefill, Rate, Score, Weigh
from weft.graph.values import Datum, Json, TextValue
from weft.proto import worker_pb2
from weft.runtime.access import KEYLESS, Access
from weft.runtime.config import ModelSettings
from weft.runtime.kv.advice import Advice, Dead
from weft.runtime.llm.context import Context
from weft.runtime.llm.errors import EngineClosedError
from weft.runtime.llm.grammar import GrammarError
from weft.runtime.llm.requests import (
    Delta,
    Event,
    Failed,
    Finished,
    GenerateRequest,
    PrefillRequest,
    PromptDone,
    Request,
    Scored,
    ScoreRequest,
)
from weft.runtime.mailbox import Mailbox

from ..faults import TaskError
from .base import Emit, Gauges, HeldKv, Operands, Outcome, Stream, Task, Timing
from .contexts import context_of, read, tokenize, write
from .deltas import Sift
from .entrance import Entrance
from .judging import expect_room, rate, score, start_of
from .kv_exchange import Borrowed, KvExchange
from .llm_loading import LoadedModel, describe, load
from .scoring import Aligned, align
from .weighing import as_data, weighed_prompt

__all__ = ["LlmEngine"]


class LlmEngine:
    """Prefill, decode and score on one model."""

    kind: EngineKind = "llm"

    def __init__(self, settings: ModelSettings, *, profile_s: float = 1.0, access: Access = KEYLESS) -> None:
        """`profile_s`: the time that measuring the model's speed at the start may take.

        `access`: with it the server's other workers are asked for KV.
        """
        self._settings = settings
        self._access = access
        self._profile_s = profile_s
        self._loaded: LoadedModel | None = None
        self._ahead: dict[Task, asyncio.Task[tuple[Event, int]]] = {}  # what is read for each prefill

    @property
    def model(self) -> str:
        """What graphs call the model."""
        return self._settings.name

    @property
    def _model(self) -> LoadedModel:
        assert self._loaded is not None, "the engine has not been started"
        return self._loaded

    def info(self) -> worker_pb2.EngineInfo:
        """The model, its tokenizer and its measured profile."""
        return describe(self._settings, self._model)

    def gauges(self) -> Gauges:
        """The slots of the KV pool."""
        if self._loaded is None:
            return Gauges()
        stats = self._loaded.engine.stats()
        return Gauges(
            stats.free_slots,
            stats.cached_slots,
            stats.running_slots,
            stats.pins_met_tokens,
            stats.pins_broken_tokens,
        )

    def flush(self) -> None:
        """Forget what was read and is not in use."""
        if self._loaded is not None:
            with suppress(EngineClosedError):  # then nothing of it is left
                self._loaded.engine.flush()

    def advise(self, held: HeldKv, advice: Advice) -> None:
        """Pass on what is known of the future of a context.

        Of one that is dead, that is what follows on its first prompt: other runs may ask the same.
        """
        if self._loaded is not None:
            if isinstance(advice, Dead):
                advice = Dead(len(held.context) if held.head is None else held.head)
            with suppress(EngineClosedError):
                ids = np.asarray(held.context.ids(), dtype=np.int64)
                self._loaded.engine.advise(held.namespace, ids, advice)

    async def start(self) -> None:
        """Load the model and measure its speed. Raises StartError."""
        self._loop, self._failed = asyncio.get_running_loop(), asyncio.Event()
        self._mailbox = Mailbox(asyncio.get_running_loop(), _take_all)
        loaded = self._loaded = await asyncio.to_thread(load, self._settings, self._profile_s)
        self._entrance = Entrance(loaded.engine)
        self._exchange = KvExchange(loaded.engine, self.model, loaded.kv_layout, self._access)
        loaded.model.on_failure(self._note_failure)
        loaded.engine.on_failure(self._note_failure)

    async def fail(self) -> None:
        """See `Mortal`."""
        await self._failed.wait()
        self._model.model.check()
        raise EngineClosedError(f"the engine of model {self.model!r} has ended with an error")

    def _note_failure(self) -> None:
        """Runs on a thread of the model's or the engine's."""
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._failed.set)

    async def stop(self) -> None:
        """Fail the requests that have not ended, and stop the engine's thread."""
        if self._loaded is not None:
            await self._exchange.close()
            await asyncio.to_thread(self._loaded.engine.close)
            await asyncio.to_thread(self._loaded.model.close)

    async def execute(self, task: Task, operands: Operands, emit: Emit) -> Outcome:
        """Compute a prefill, a decode, a score, a weighing or ratings."""
        op, kv = task.node.op, operands.get("kv")
        context = context_of(kv, self._model.tokenizer, getattr(op, "ids", ()))
        began = time.monotonic()
        await tokenize(context)
        match op:
            case Prefill():
                return await self._prefill(task, op, context, operands)
            case Decode():
                return await self._decode(task, op, context, _head(kv), emit, began)
            case Score():
                return await self._score(task, op, context, began)
            case Weigh():
                return await self._probe(task, op, context.ids())
            case Rate():
                return await self._rate(task, op, operands)
            case _:
                raise TaskError("invalid", f"an LLM engine does not run {op.label()!r}")

    async def _prefill(self, task: Task, op: Prefill, context: Context, operands: Operands) -> Outcome:
        longer = read(context, op.pieces, operands)
        held = self._held(task, longer, _head(operands.get("kv")))
        if not task.fused:
            await tokenize(longer)
        settled = () if task.fused else longer.settled_ids()
        if len(settled) <= len(context.settled_ids()):
            return Outcome((held,))
        self._check_room(len(longer), 0, 0)
        borrowed = await self._borrow(task, settled)
        request = PrefillRequest(settled, task.namespace, task.priority, True, task.waited)
        started = time.monotonic()
        done = await self._read_ahead(task, request)
        if done is None:
            return Outcome((held,))
        elapsed = time.monotonic() - started
        timing = Timing(
            queued=borrowed.waited,
            prefill=elapsed,
            cached_tokens=done.cached_tokens,
            computed_tokens=done.computed_tokens,
            fetch=borrowed.seconds,
            fetched_tokens=borrowed.tokens,
        )
        return Outcome((held,), timing)

    async def _read_ahead(self, task: Task, request: PrefillRequest) -> PromptDone | None:
        """How a prompt was read; None if what continues it reads the rest of it."""
        reading = self._ahead[task] = asyncio.create_task(self._request(request))
        try:
            done, _ = await reading
        except asyncio.CancelledError:
            this = asyncio.current_task()
            if task in self._ahead or (this is not None and this.cancelling()):
                raise
            return None  # it was overtaken
        finally:
            self._ahead.pop(task, None)
        assert isinstance(done, PromptDone)
        return done

    def overtake(self, task: Task) -> None:
        """See `Yielding`. What has been read stays in the cache."""
        reading = self._ahead.pop(task, None)
        if reading is not None:
            reading.cancel()

    async def _decode(
        self, task: Task, op: Decode, context: Context, head: int | None, emit: Emit, began: float
    ) -> Outcome:
        ids = context.ids()
        cutting = time.monotonic() - began  # the prompt into tokens, which is a part of reading it
        room = self._model.engine.info.context_length - len(context)
        self._check_room(len(context), 1, min(op.sampling.max_tokens, room))
        borrowed = await self._borrow(task, ids)
        request = GenerateRequest(
            ids, task.namespace, task.priority, op.sampling, op.constraint, op.logprobs, task.waited
        )
        done, generated = await self._request(request, emit, task.stream)
        assert isinstance(done, Finished)
        fingerprint = self._model.tokenizer.fingerprint
        text = TextValue(done.text, done.ids, fingerprint, len(done.text) - len(done.tail))
        timing = Timing(
            queued=borrowed.waited + done.timings.queue,
            prefill=cutting + done.timings.prefill,
            decode=done.timings.decode,
            cached_tokens=done.cached_tokens,
            computed_tokens=done.computed_tokens,
            generated_tokens=generated,
            prompt_tokens=len(context),
            finish=done.finish_reason,
            fetch=borrowed.seconds,
            fetched_tokens=borrowed.tokens,
        )
        held = self._held(task, write(context, text), len(context) if head is None else head)
        if op.logprobs is None:
            return Outcome((held, text), timing)
        return Outcome((held, text, Json(as_data(done.logprobs, self._model.tokenizer))), timing)

    async def _score(self, task: Task, op: Score, context: Context, began: float) -> Outcome:
        aligned = align(context.ids(), [context.append_text(choice).ids() for choice in op.choices])
        cutting = time.monotonic() - began
        borrowed = await self._borrow(task, aligned.prefix)
        started = time.monotonic()
        results, scored = await score(op, aligned, self._model.tokenizer, lambda o: self._weigh(task, o))
        timing = Timing(
            queued=borrowed.waited,
            prefill=cutting + time.monotonic() - started,
            cached_tokens=scored.cached_tokens,
            computed_tokens=scored.computed_tokens,
            prompt_tokens=len(context),
            fetch=borrowed.seconds,
            fetched_tokens=borrowed.tokens,
        )
        return Outcome(results, timing)

    async def _probe(self, task: Task, op: Weigh, ids: tuple[int, ...]) -> Outcome:
        started = time.monotonic()
        start = start_of(op, len(ids))
        first = max(start, 1)  # nothing comes before token 0 that could foretell it
        done: Event
        if first < len(ids):
            done = await self._weigh(task, Aligned(ids[:first], (ids[first:],)), op.top)
        else:
            self._check_room(len(ids), 0, 0)
            done, _ = await self._request(
                PrefillRequest(ids, task.namespace, task.priority, False, task.waited)
            )
        assert isinstance(done, Scored | PromptDone)
        tokens = weighed_prompt(ids[start:], done)
        timing = Timing(
            prefill=time.monotonic() - started,
            cached_tokens=done.cached_tokens,
            computed_tokens=done.computed_tokens,
            prompt_tokens=len(ids),
        )
        return Outcome((Json(len(ids)), Json(as_data(tokens, self._model.tokenizer))), timing)

    async def _rate(self, task: Task, op: Rate, operands: Operands) -> Outcome:
        """All passages at once: what their prompts share is computed once, and one step takes many."""
        started = time.monotonic()
        results, weighed = await rate(op, operands, self._model.tokenizer, lambda o: self._weigh(task, o))
        timing = Timing(
            prefill=time.monotonic() - started,
            cached_tokens=sum(scored.cached_tokens for scored in weighed),
            computed_tokens=sum(scored.computed_tokens for scored in weighed),
            batch=max(1, len(weighed)),
        )
        return Outcome(results, timing)

    async def _weigh(self, task: Task, options: Aligned, top: int = 0) -> Scored:
        sizes = list(map(len, options.options))
        self._check_room(len(options.prefix), max(sizes), sum(sizes))
        request = ScoreRequest(
            options.prefix, options.options, task.namespace, task.priority, top, task.waited
        )
        done, _ = await self._request(request)
        assert isinstance(done, Scored)
        return done

    def _held(self, task: Task, context: Context, head: int | None) -> HeldKv:
        return HeldKv(_key(task), context=context, model=self.model, namespace=task.namespace, head=head)

    async def _borrow(self, task: Task, ids: tuple[int, ...]) -> Borrowed:
        """Get what another worker has read of a prompt, if this is advised."""
        return await self._exchange.borrow(task.source, task.namespace, ids)

    def lend(self, request: worker_pb2.FetchKvRequest) -> AsyncIterator[worker_pb2.KvPart]:
        """See `Lending`."""
        return self._exchange.lend(request)

    def _check_room(self, prompt: int, least: int, most: int) -> None:
        """Refuse no prompt, and one with which `least` tokens exceed the context, or `most` the KV pool."""
        info = self._model.engine.info
        expect_room(self.model, prompt, least, info.context_length)
        if prompt + max(most - 1, 0) > info.total_slots:  # the last token needs no slot
            raise TaskError(
                "too_large",
                f"the prompt has {prompt} tokens and up to {most} follow, but the KV pool of model "
                f"{self.model!r} holds {info.total_slots}; raise kv_tokens, or lower max_tokens",
            )

    async def _request(
        self, request: Request, emit: Emit | None = None, stream: Stream = Stream.NONE
    ) -> tuple[Event, int]:
        """The event that ends a request, and the number of tokens it generated.

        `emit` gets "" when the prompt has been read, and then what is to be streamed. When cancelled, it ends
        once the engine has freed the request's KV.
        """
        call = _Call(emit, isinstance(request, PrefillRequest))
        sift = Sift(stream, lambda events: self._mailbox.post((call, events)))
        handle = self._entrance.submit(request, sift)
        try:
            return await call.result, sift.generated
        except asyncio.CancelledError:
            with suppress(EngineClosedError):  # then nothing of it is left
                self._entrance.cancel(handle)
                await call.ended.wait()
            raise


class _Call:
    """A request under way, as the event loop sees it."""

    def __init__(self, emit: Emit | None, is_prefill: bool) -> None:
        self.result: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        self.ended = asyncio.Event()
        self._emit = emit
        self._is_prefill = is_prefill

    def take(self, events: Sequence[Event]) -> None:
        for event in events:
            match event:
                case Delta(text):
                    self._tell(text)
                case PromptDone() if not self._is_prefill:
                    self._tell("")
                case _:
                    self._end(event)

    def _tell(self, text: str) -> None:
        if self._emit is not None and not self.result.done():
            self._emit(text)

    def _end(self, event: Event) -> None:
        self.ended.set()
        if self.result.done():
            return
        if isinstance(event, Failed):
            bad_constraint = isinstance(event.error, GrammarError)
            error = TaskError("invalid", str(event.error)) if bad_constraint else event.error
            self.result.set_exception(error)
        else:
            self.result.set_result(event)


def _take_all(items: Sequence[tuple[_Call, Sequence[Event]]]) -> None:
    for call, events in items:
        call.take(events)


def _head(kv: Datum | None) -> int | None:
    """See `HeldKv.head`; of a context that was made elsewhere it is not known."""
    return kv.head if isinstance(kv, HeldKv) else None


def _key(task: Task) -> str:
    return f"{task.run}/%{task.node.id}"
