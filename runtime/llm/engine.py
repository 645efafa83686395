"""The LLM engine: one thread that computes all requests in steps of one batch each.

    submit ─▶ inbox ─▶ planner.plan ─▶ runner.run ─▶ sample ─▶ tasks ─▶ events ─▶ sinks
                           ▲        (launcher.py)                │
                           └───────── planner.commit ◀───────────┘

Callers talk to the thread through its inbox only; it sleeps there while there is nothing to compute.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import TypeVar

import torch

from weft.runtime.cuda import on_device
from weft.runtime.kv.advice import Advice
from weft.runtime.kv.cache import KVCache
from weft.runtime.kv.host import HostPool
from weft.runtime.kv.radix import Tokens

from .errors import CancelledError, DeviceError, EngineClosedError
from .flight import Flight
from .grammar import CompiledGrammar
from .handover import Handover, KvSpan, Wanted
from .intake import Entry, Intake
from .launcher import Launcher, runner_for
from .lookup import Drafting, Lookup, Trust
from .model import Model
from .options import (
    EngineInfo,
    EngineOptions,
    EngineStats,
    choose_host_slots,
    choose_limits,
    choose_slots,
)
from .planner import Planner
from .profile import Profile, measure_profile
from .requests import GenerateRequest, Request, Sink
from .step_cost import StepCost
from .tasks import GenerateTask, Task
from .text import IdsOnly, TextBackend, TokenizerText
from .tokenizer import Tokenizer

__all__ = ["Entry", "LLMEngine"]

_log = logging.getLogger(__name__)

T = TypeVar("T")


class LLMEngine:
    """Serves requests on one model. All methods may be called from any thread.

    Every submitted request ends with exactly one of `PromptDone` (prefill), `Finished`, `Scored` and
    `Failed`.
    """

    def __init__(
        self, model: Model, tokenizer: Tokenizer | None = None, options: EngineOptions | None = None
    ) -> None:
        """Reserve the KV pool and start the thread.

        Without a tokenizer the engine knows ids only: texts stay empty, and neither stop strings nor
        constraints are served. Raises `ModelError` if tokenizer and model do not belong together,
        `ValueError` for options that make no sense here, `MemoryError` if the host has no room for its tier,
        `ParallelError` if processes that share the model have ended. The model is not closed with the engine.
        """
        options = options or EngineOptions()
        slots = choose_slots(model, options.kv_tokens)
        host_slots = choose_host_slots(model, slots, options.host_kv_tokens)
        self._limits = choose_limits(model, options)
        config = model.config
        self._text: TextBackend = TokenizerText(tokenizer, config) if tokenizer else IdsOnly(config)
        self._verify = options.verify
        self._drafts = options.forced_tokens
        self._trust = Trust() if options.prompt_lookup else None
        with on_device(model.device):
            self._runner = runner_for(model, slots, self._limits, options)
            self._tier = HostPool(self._runner.pool, host_slots) if host_slots else None
        self._planner = Planner(KVCache(slots, self._tier), self._limits)
        self._handover = Handover(self._planner, self._runner.pool if model.ranks == 1 else None)
        self._intake = Intake(self._text, model.config, self._planner)
        self.info = EngineInfo.of(
            model, self._limits, slots, host_slots, shares_prefixes=self._runner.shares_prefixes
        )
        self._tasks: dict[int, Task] = {}
        self._launcher = Launcher(self._planner, self._runner, self._tasks, overlap=options.overlap)
        self._handles = itertools.count(1)
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._flight: Flight | None = None  # a step that is under way
        self._steps = self._generated = self._drafted = self._held = 0
        self._stats = self._count()
        self._closing = False
        self._on_failure: Callable[[], None] = lambda: None
        self._door = threading.Lock()  # held by what enters the inbox, so that nothing enters a closed one
        self._compilers = ThreadPoolExecutor(options.compile_threads, thread_name_prefix="weft-grammar")
        self._thread = threading.Thread(target=self._run, args=(model.device,), name="weft-llm", daemon=True)
        self._thread.start()

    def submit(self, request: Request, sink: Sink) -> int:
        """Queue a request; its events go to `sink`. Returns a handle for `cancel`.

        Raises `RequestError` if it could never be served and `EngineClosedError` after `close`.
        """
        entry = self.admit(request, sink)
        self.enter((entry,))
        return entry.handle

    def admit(self, request: Request, sink: Sink) -> Entry:
        """What `enter` queues for a request. Raises `RequestError` as `submit`."""
        task = self._intake.task(next(self._handles), request, sink, time.monotonic())
        return Entry(task, request)

    def enter(self, entries: Sequence[Entry]) -> None:
        """Queue requests, all before the next step. Raises `EngineClosedError`."""
        self._post(partial(self._enter, entries))

    def cancel(self, handle: int) -> None:
        """End a request with `Failed(CancelledError)`, freeing its KV before the next step.

        Does nothing if it has ended already.
        """
        with suppress(EngineClosedError):
            self._post(partial(self._fail, handle, CancelledError("the request was cancelled")))

    def flush(self) -> None:
        """Forget what was read before, except what running requests use. Raises `EngineClosedError`."""
        self._post(self._planner.cache.flush)

    def advise(self, namespace: str, ids: Tokens, advice: Advice) -> None:
        """Say what is known of the future of a prefix (int64 tokens). Raises `EngineClosedError`."""
        self._post(lambda: self._planner.cache.advise(namespace, ids, advice, time.monotonic()))

    def held(self, namespace: str, ids: Tokens) -> Future[int]:
        """How many of a prompt's first tokens (int64) the cache holds. Raises `EngineClosedError`."""
        return self._ask(lambda: self._handover.held(namespace, ids, time.monotonic()))

    def give_kv(self, namespace: str, ids: Tokens, span: KvSpan) -> Future[int]:
        """Put KV that another engine has computed into the cache; see `Handover.give`.

        Raises `EngineClosedError`.
        """
        return self._ask(lambda: self._handover.give(namespace, ids, span, time.monotonic()))

    def take_kv(self, namespace: str, ids: Tokens, first: int, wait_s: float) -> Future[KvSpan | None]:
        """A copy of the KV of a prompt (int64 tokens) from token `first` on, as far as the cache has it.

        Waits for requests that are computing more of it, but no longer than `wait_s`. None: it has nothing
        worth a message. Raises `EngineClosedError`.
        """
        answer: Future[KvSpan | None] = Future()
        wanted = Wanted(namespace, ids, first, time.monotonic() + wait_s, answer)
        self._post(lambda: self._handover.want(wanted, time.monotonic()))
        return answer

    def stats(self) -> EngineStats:
        """The counters, as of the last step."""
        return self._stats

    def measure_profile(self, seconds: float = 1.5) -> Profile:
        """Time the model within about `seconds`, between two steps, in KV slots that are free.

        Neither the cache nor the counters change. Raises `EngineClosedError` after `close`.
        """
        return self._ask(partial(self._measure, seconds)).result()

    def on_failure(self, listener: Callable[[], None]) -> None:
        """Call `listener`, on the engine's thread, if that ends before `close`."""
        self._on_failure = listener

    def close(self) -> None:
        """Fail what has not ended, with `EngineClosedError`, and stop the thread; may be called twice."""
        with self._door:
            self._closing = True
            self._inbox.put(lambda: None)
        self._thread.join()
        self._runner.close()
        self._compilers.shutdown(cancel_futures=True)

    def __enter__(self) -> LLMEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, question: Callable[[], T]) -> Future[T]:
        """The answer that the engine's thread gives between two steps."""
        answer: Future[T] = Future()

        def ask() -> None:
            if not answer.set_running_or_notify_cancel():
                return
            try:
                answer.set_result(question())
            except Exception as error:
                answer.set_exception(error)

        self._post(ask)
        return answer

    def _post(self, command: Callable[[], None]) -> None:
        with self._door:
            if self._closing:
                raise EngineClosedError("the engine has been closed")
            self._inbox.put(command)

    # What follows runs on the engine's thread.

    def _run(self, device: torch.device) -> None:
        with on_device(device):
            try:
                self._serve()
            finally:
                self._end()

    def _serve(self) -> None:
        while not self._closing:
            try:
                self._take_commands()
                if not self._closing:
                    if self._planner.prefetch(time.monotonic()):
                        self._stats = self._count()
                    self._step()
            except DeviceError as error:
                _log.error("the LLM engine ends: %s", error)
                return
            except Exception as error:
                _log.exception("the LLM engine starts afresh after an error outside any request")
                self._start_afresh(error)

    def _end(self) -> None:
        """Fail what has not ended: after a close, or after an error that starting afresh has not mended."""
        with self._door:
            failed, self._closing = not self._closing, True
        self._take_commands()
        for handle in list(self._tasks):
            self._fail(handle, EngineClosedError("the engine was closed before the request ended"))
        self._handover.close()
        if failed:
            self._on_failure()
        if self._tier is not None:
            self._tier.close()

    def _take_commands(self) -> None:
        """Carry out what is in the inbox, waiting for something if there is nothing else to do."""
        try:
            while True:
                idle = self._idle and not self._closing
                timeout = self._planner.restores.wait_s(time.monotonic()) if idle else None
                self._inbox.get(block=idle, timeout=timeout)()
                self._stats = self._count()
        except Empty:
            return

    def _enter(self, entries: Sequence[Entry]) -> None:
        for task, request in entries:
            self._tasks[task.job.id] = task
            if isinstance(task, GenerateTask) and self._trust is not None:
                task.lookup = Lookup(self._trust)
            if isinstance(request, GenerateRequest) and request.constraint is not None:
                compiling = self._compilers.submit(self._text.compile, request.constraint, task.job.max_new)
                compiling.add_done_callback(partial(self._compiled, task.job.id))
            else:
                self._planner.submit(task.job)

    def _compiled(self, handle: int, grammar: Future[CompiledGrammar]) -> None:
        """Runs on a compiler's thread."""
        self._inbox.put(partial(self._enter_constrained, handle, grammar))

    def _enter_constrained(self, handle: int, grammar: Future[CompiledGrammar]) -> None:
        task = self._tasks.get(handle)
        if not isinstance(task, GenerateTask):
            return  # it was cancelled meanwhile
        try:
            task.matcher = grammar.result().matcher()
            task.drafts = self._drafts
        except Exception as error:
            self._fail(handle, error)
        else:
            self._planner.submit(task.job)

    @property
    def _idle(self) -> bool:
        return self._planner.idle and self._flight is None

    def _step(self) -> None:
        """Land the step that is under way, or one that is begun now; before that, begin the one behind it."""
        flight = self._flight or self._launcher.launch(time.monotonic())
        self._flight = None
        if flight is not None:
            if self._inbox.empty():
                self._flight = self._launcher.launch_behind(flight)
            self._land(flight)
            self._handover.serve(time.monotonic())

    def _land(self, flight: Flight) -> None:
        """Wait for a step's tokens, and do what follows from them."""
        drawn: list[tuple[GenerateTask, list[int]]] = []
        with flight.guarded():
            if flight.drawn is not None:
                drawn = flight.drawn.wait()
            self._runner.model.check()
        now = time.monotonic()
        self._launcher.landed(flight, now)
        if not flight.failed:
            self._planner.commit(flight.computed(), now)
            self._steps += bool(flight.chunks)
        tasks = [task for task in flight.tasks if task.job.id in self._tasks]
        for task in tasks:
            task.advance(now)
        most, ahead = self._launcher.most_drafted(len(drawn)), self._flight is not None
        for drawing, tokens in drawn:
            least = self._planner.cost.worth(drawing.job.trunk.length, len(drawn))
            drawing.guard(drawing.accept, tokens, now, Drafting(least, most, ahead))
            self._generated += drawing.taken
            self._drafted += len(tokens) - 1
            self._held += drawing.held
        if not ahead:
            self._launcher.weigh_drafts([task for task, _ in drawn if not task.done])
        for task in tasks:
            self._settle(task)
        if self._verify:
            self._planner.check()
        self._stats = self._count()
        for task in tasks:
            self._deliver(task)
        if flight.failed:
            self._runner.model.probe()

    def _settle(self, task: Task) -> None:
        """Remove a task that has ended from the planner; the KV of a failed one is not trusted."""
        if not task.done:
            return
        del self._tasks[task.job.id]
        if task.failed:
            self._planner.cancel(task.job)
        else:
            self._planner.finish(task.job, time.monotonic())

    def _deliver(self, task: Task) -> None:
        events, task.events = task.events, []
        if not events:
            return
        try:
            task.sink(events)
        except Exception as error:
            _log.exception("the sink of request %d failed; the request is dropped", task.job.id)
            if task.job.id in self._tasks:
                self._drop(task, error)

    def _fail(self, handle: int, error: Exception) -> None:
        """End a task outside a step."""
        task = self._tasks.get(handle)
        if task is not None:
            self._drop(task, error)
            self._deliver(task)

    def _drop(self, task: Task, error: Exception) -> None:
        task.fail(error)
        self._settle(task)
        self._stats = self._count()

    def _start_afresh(self, error: Exception) -> None:
        """Fail everything and forget the cache, whose bookkeeping can no longer be trusted."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        self._flight = None
        try:
            self._planner.reset()
        finally:
            self._handover.close(error)
            self._stats = self._count()
            for task in tasks:
                task.fail(error)
                self._deliver(task)

    def _measure(self, seconds: float) -> Profile:
        cache = self._planner.cache
        slots = cache.allocate(cache.free)
        try:
            profile = measure_profile(self._runner, slots, self._limits, seconds)
        finally:
            cache.release(slots)
        self._planner.cost = StepCost.fit([(p.cached, p.new, p.ms) for p in profile.prefill])
        return profile

    def _count(self) -> EngineStats:
        planner, cache = self._planner, self._planner.cache
        return EngineStats(
            steps=self._steps,
            cached_tokens=planner.cached_tokens,
            restored_tokens=planner.restores.tokens,
            prefetched_tokens=planner.restores.tokens_ahead,
            computed_tokens=planner.computed_tokens,
            generated_tokens=self._generated,
            drafted_tokens=self._drafted,
            held_tokens=self._held,
            retractions=planner.retractions,
            pins_met_tokens=cache.pins_met,
            pins_broken_tokens=cache.pins_broken,
            free_slots=cache.free,
            cached_slots=cache.cached,
            running_slots=cache.running,
            host_tokens=cache.on_host,
            waiting_requests=len(self._tasks) - len(planner.running),
            running_requests=len(planner.running),
        )
