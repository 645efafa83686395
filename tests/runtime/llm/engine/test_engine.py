"""What the engine promises beyond equal tokens: reuse, small pools, isolation, cancelling, seeds, scores."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol

import pytest
import torch

from weft.graph.sampling import Regex, Sampling
from weft.runtime.llm.blocking import run_requests
from weft.runtime.llm.engine import LLMEngine
from weft.runtime.llm.errors import CancelledError, DeviceError, EngineClosedError, RequestError
from weft.runtime.llm.gpu.device_model import DeviceModel
from weft.runtime.llm.gpu.runner import GpuRunner
from weft.runtime.llm.model import Model
from weft.runtime.llm.options import EngineOptions
from weft.runtime.llm.planner import Planner
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
from weft.runtime.llm.runner import ModelRunner

from .loading import KINDS, Kind, load_as

LONG = 10_000.0


class Start(Protocol):
    def __call__(self, *, endless: bool = False, **options: Any) -> LLMEngine: ...


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint: Callable[[str], Any]) -> Any:
    return make_checkpoint("llama")


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture(scope="module")
def model(checkpoint: Any, kind: Kind) -> Model:
    return load_as(kind, checkpoint.folder)


@pytest.fixture(scope="module")
def endless_model(checkpoint: Any, kind: Kind) -> Model:
    """The same model, but no token ends its texts."""
    model = load_as(kind, checkpoint.folder)
    model.config = replace(model.config, eos_ids=frozenset())
    return model


@pytest.fixture
def start(model: Model, endless_model: Model) -> Iterator[Start]:
    """Starts engines that check every slot after every step, and closes them."""
    engines: list[LLMEngine] = []

    def start(*, endless: bool = False, **options: Any) -> LLMEngine:
        options = {"kv_tokens": 4096, "verify": True} | options
        engine = LLMEngine(endless_model if endless else model, None, EngineOptions(**options))
        engines.append(engine)
        return engine

    yield start
    for engine in engines:
        engine.close()


def prompt(seed: int, length: int) -> tuple[int, ...]:
    return tuple(random.Random(seed).choices(range(3, 160), k=length))


def generate(ids: tuple[int, ...], max_tokens: int = 6, **sampling: Any) -> GenerateRequest:
    return GenerateRequest(ids, sampling=Sampling(max_tokens=max_tokens, **sampling))


def finished(events: Sequence[Event]) -> Finished:
    assert isinstance(events[-1], Finished), events[-1]
    return events[-1]


def run(engine: LLMEngine, *requests: Request) -> list[list[Event]]:
    return run_requests(engine, requests, timeout=60)


class Watch:
    """A sink that can be waited on."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.changed = threading.Condition()

    def __call__(self, events: Sequence[Event]) -> None:
        with self.changed:
            self.events.extend(events)
            self.changed.notify_all()

    def wait_for(self, kind: type[Event]) -> Event:
        with self.changed:
            assert self.changed.wait_for(lambda: any(isinstance(e, kind) for e in self.events), timeout=60)
            return next(event for event in self.events if isinstance(event, kind))


@pytest.mark.parametrize("shared", [1, 15, 16, 17, 1000])
def test_a_shared_prefix_is_computed_once(start: Start, checkpoint: Any, shared: int) -> None:
    head, tails = prompt(1, shared), (prompt(2, 20), prompt(3, 30))
    assert tails[0][0] != tails[1][0]
    engine = start()
    run(engine, generate(head + tails[0]))
    before = engine.stats()
    (events,) = run(engine, generate(head + tails[1]))
    after = engine.stats()
    assert after.computed_tokens - before.computed_tokens == len(tails[1])
    assert after.cached_tokens - before.cached_tokens == shared
    assert events[0] == PromptDone(cached_tokens=shared, computed_tokens=len(tails[1]))
    assert finished(events).ids == checkpoint.greedy(head + tails[1], 6)


def test_a_prompt_seen_before_computes_one_token(start: Start) -> None:
    engine = start()
    first, again = (run(engine, generate(prompt(4, 50)))[0] for _ in range(2))
    assert again[0] == PromptDone(cached_tokens=49, computed_tokens=1)
    assert finished(again).ids == finished(first).ids


def test_an_output_is_reused_as_a_prompt(start: Start) -> None:
    engine = start()
    ids = prompt(5, 20)
    output = finished(run(engine, generate(ids, 12))[0]).ids
    (events,) = run(engine, generate((*ids, *output, 5, 6)))
    assert events[0] == PromptDone(cached_tokens=20 + len(output) - 1, computed_tokens=3)


def test_namespaces_share_nothing(start: Start) -> None:
    engine = start()
    for namespace in ("a", "b"):
        (events,) = run(engine, GenerateRequest(prompt(6, 30), namespace, sampling=Sampling(max_tokens=2)))
        assert events[0] == PromptDone(cached_tokens=0, computed_tokens=30)


def test_prefill_fills_the_cache(start: Start) -> None:
    engine = start(token_budget=16)
    ids = prompt(7, 40)
    assert run(engine, PrefillRequest(ids)) == [[PromptDone(0, 40)]]
    assert engine.stats().cached_slots == 40
    assert run(engine, PrefillRequest(ids)) == [[PromptDone(40, 0)]]
    assert run(engine, generate(ids))[0][0] == PromptDone(39, 1)


def test_a_prefix_of_concurrent_requests_is_computed_once(start: Start) -> None:
    head = prompt(8, 200)
    engine = start(token_budget=64)
    run(engine, *(generate((*head, *prompt(100 + index, 5))) for index in range(16)))
    assert engine.stats().computed_tokens <= 200 + 16 * 5 + 64


def test_a_pool_far_too_small_evicts_queues_and_retracts(start: Start, checkpoint: Any) -> None:
    requests = [generate(prompt(index, 5 + index % 37), 25) for index in range(32)]
    engine = start(kv_tokens=90, token_budget=32)
    for request, events in zip(requests, run(engine, *requests), strict=True):
        assert finished(events).ids == checkpoint.greedy(request.ids, 25)
        assert sum(isinstance(event, PromptDone) for event in events) == 1
    stats = engine.stats()
    assert stats.retractions > 0
    assert stats.free_slots + stats.cached_slots == 90


def test_deltas_add_up_and_come_once_a_step(start: Start) -> None:
    batches: list[Sequence[Event]] = []
    engine = start()
    ended = Watch()

    def sink(events: Sequence[Event]) -> None:
        batches.append(events)
        ended(events)

    engine.submit(generate(prompt(9, 10), 8), sink)
    ended.wait_for(Finished)
    deltas = [[event for event in events if isinstance(event, Delta)] for events in batches]
    assert all(len(step) <= 1 for step in deltas)
    ids = tuple(token for step in deltas for delta in step for token in delta.ids)
    assert ids == finished(ended.events).ids


def test_the_context_bounds_the_output(start: Start) -> None:
    engine = start(context_length=32)
    last = finished(run(engine, GenerateRequest(prompt(21, 30), sampling=Sampling(max_tokens=50)))[0])
    assert (len(last.ids), last.finish_reason) in {(2, "length"), (1, "stop"), (0, "stop")}


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (generate(()), "ids must not be empty"),
        (generate((5, 160)), "ids holds 160, which is no token id of this model .0..159."),
        (generate((5, -1)), "ids holds -1"),
        (generate((5,) * 64), "the prompt of 64 tokens.* exceeds the model's context of 64 tokens"),
        (generate((5,) * 40, 20), "may need 59 KV slots .prompt 40., but the pool has only 50"),
        (PrefillRequest((5,) * 65), "exceeds the model's context of 64 tokens"),
        (ScoreRequest((5,), ()), "options must not be empty"),
        (ScoreRequest((5,), ((6,), ())), r"options\[1\] must not be empty"),
        (ScoreRequest((), ((6,),)), "prefix_ids must not be empty"),
        (generate((5,), stop=("\n",)), "serves neither stop strings nor constraints"),
        (GenerateRequest((5,), constraint=Regex("a")), "serves neither stop strings nor constraints"),
    ],
)
def test_what_can_never_be_served_is_refused(start: Start, request_: Request, message: str) -> None:
    engine = start(kv_tokens=50, context_length=64)
    with pytest.raises(RequestError, match=message):
        engine.submit(request_, print)
    assert engine.stats().waiting_requests == 0


def test_cancel_frees_the_kv(start: Start) -> None:
    engine = start(endless=True)
    watch = Watch()
    handle = engine.submit(GenerateRequest(prompt(10, 40), sampling=Sampling(max_tokens=2000)), watch)
    watch.wait_for(Delta)
    engine.cancel(handle)
    failed = watch.wait_for(Failed)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, CancelledError)
    stats = engine.stats()
    assert (stats.running_requests, stats.waiting_requests, stats.running_slots) == (0, 0, 0)
    assert stats.cached_slots == 40
    engine.cancel(handle)  # too late, and harmless


def test_cancel_of_a_waiting_request(start: Start) -> None:
    engine = start(endless=True, max_running=1)
    first, second = Watch(), Watch()
    running = engine.submit(generate(prompt(10, 40), 2000), first)
    first.wait_for(PromptDone)
    waiting = engine.submit(generate(prompt(11, 40), 2000), second)
    engine.cancel(waiting)
    second.wait_for(Failed)
    assert engine.stats().running_requests == 1
    engine.cancel(running)
    first.wait_for(Failed)


def test_seeds_reproduce_in_any_batch(start: Start) -> None:
    drawn = [
        generate(prompt(12, 9), 12, temperature=1.0, seed=1),
        generate(prompt(12, 9), 12, temperature=1.0, seed=2),
        generate(prompt(13, 9), 12, temperature=0.7, seed=1, top_p=0.8),
        generate(prompt(14, 9), 12, temperature=1.3, seed=3, top_k=9),
        generate(prompt(15, 9), 12),
    ]
    alone = [finished(run(start(), request)[0]).ids for request in drawn]
    together = [finished(events).ids for events in run(start(token_budget=7), *reversed(drawn))]
    assert together[::-1] == alone
    assert alone[0] != alone[1]


def test_scores_are_those_of_the_whole_model(start: Start, checkpoint: Any) -> None:
    prefix = prompt(16, 30)
    options = ((5,), (5, 6), (7, 8, 9, 10), prompt(17, 25), (5, 6))
    engine = start(token_budget=11)
    for cached, computed in ((0, 30), (29, 1)):
        (events,) = run(engine, ScoreRequest(prefix, options))
        (scored,) = events
        assert isinstance(scored, Scored)
        assert scored.cached_tokens == cached
        assert scored.computed_tokens == computed + sum(len(option) - 1 for option in options)
        for option, logprobs in zip(options, scored.logprobs, strict=True):
            assert logprobs == pytest.approx(reference_logprobs(checkpoint.model, prefix, option), abs=1e-4)
    assert engine.stats().cached_slots == 30


def reference_logprobs(model: Any, prefix: tuple[int, ...], option: tuple[int, ...]) -> list[float]:
    with torch.inference_mode():
        logits = model(torch.tensor([prefix + option])).logits[0].log_softmax(-1)
    return [float(logits[len(prefix) + index - 1, token]) for index, token in enumerate(option)]


def test_scores_survive_a_small_pool(start: Start) -> None:
    requests = [
        ScoreRequest(prompt(index, 20), (prompt(50 + index, 12), prompt(80 + index, 9))) for index in range(8)
    ]
    roomy = run(start(), *requests)
    tight = run(start(kv_tokens=60, token_budget=16), *requests)
    for wide, narrow in zip(roomy, tight, strict=True):
        assert isinstance(wide[0], Scored)
        assert isinstance(narrow[0], Scored)
        for left, right in zip(wide[0].logprobs, narrow[0].logprobs, strict=True):
            assert left == pytest.approx(right, abs=1e-4)


def test_scores_of_one_step_are_those_of_each_alone(start: Start) -> None:
    """All are fetched together, the likeliest of those who want some, too."""
    scores = [
        ScoreRequest(prompt(30, 9), ((5,), (7,))),
        ScoreRequest(prompt(31, 14), ((5, 6, 8), (9,)), top=2),
        ScoreRequest(prompt(32, 5), (prompt(33, 6),), top=5),
    ]
    requests: list[Request] = [generate(prompt(34, 7)), *scores]
    alone = [run(start(), request)[0][-1] for request in requests]
    together = [events[-1] for events in run(start(), *requests)]
    assert isinstance(alone[0], Finished)
    assert isinstance(together[0], Finished)
    assert together[0].ids == alone[0].ids
    for request, found, wanted in zip(scores, together[1:], alone[1:], strict=True):
        assert isinstance(found, Scored)
        assert isinstance(wanted, Scored)
        for left, right in zip(found.logprobs, wanted.logprobs, strict=True):
            assert left == pytest.approx(right, abs=1e-4)
        ids = [[[token for token, _ in row] for row in option] for option in found.top]
        assert ids == [[[token for token, _ in row] for row in option] for option in wanted.top]
        tops = [len(row) for option in found.top for row in option]
        assert tops == [request.top] * (sum(map(len, request.options)) if request.top else 0)


def test_priority_goes_first(start: Start) -> None:
    engine = start(endless=True, max_running=1, aging_seconds=LONG)
    order: list[int] = []
    blocker = Watch()
    handle = engine.submit(generate(prompt(18, 10), 2000), blocker)
    blocker.wait_for(PromptDone)
    watches = []
    for priority in (0, 2, 1):
        watch = Watch()

        def sink(events: Sequence[Event], priority: int = priority, watch: Watch = watch) -> None:
            order.append(priority)
            watch(events)

        engine.submit(PrefillRequest(prompt(19 + priority, 10), priority=priority), sink)
        watches.append(watch)
    engine.cancel(handle)
    for watch in watches:
        watch.wait_for(PromptDone)
    assert order == [2, 1, 0]


def test_a_failing_step_fails_its_requests_only(
    start: Start, checkpoint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = start()
    run(engine, generate(prompt(20, 10)))

    def broken(*_: object) -> None:
        raise RuntimeError("the device is on fire")

    with monkeypatch.context() as patch:
        for runner in (ModelRunner, GpuRunner):
            patch.setattr(runner, "run", broken)
        (events,) = run(engine, generate(prompt(21, 10)))
    (failed,) = events
    assert isinstance(failed, Failed)
    assert str(failed.error) == "the device is on fire"
    assert engine.stats().running_slots == 0
    assert finished(run(engine, generate(prompt(21, 10)))[0]).ids == checkpoint.greedy(prompt(21, 10), 6)


def test_an_engine_ends_with_its_device(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = start()
    ended = threading.Event()
    engine.on_failure(ended.set)

    def broken(*_: object) -> None:
        raise RuntimeError("an illegal memory access was encountered")

    def gone(*_: object) -> None:
        raise DeviceError("the device computes nothing any more")

    for runner in (ModelRunner, GpuRunner):
        monkeypatch.setattr(runner, "run", broken)
    for model in (Model, DeviceModel):
        monkeypatch.setattr(model, "probe", gone)
    (events,) = run(engine, generate(prompt(21, 10)))
    assert isinstance(events[-1], Failed)
    assert str(events[-1].error) == "an illegal memory access was encountered"
    assert ended.wait(60)
    with pytest.raises(EngineClosedError):
        engine.submit(generate(prompt(21, 10)), lambda events: None)


def test_a_failing_sink_drops_its_request_only(start: Start) -> None:
    engine = start(endless=True)
    ended = threading.Event()

    def broken(events: Sequence[Event]) -> None:
        ended.set()
        raise ValueError("nobody listens")

    engine.submit(GenerateRequest(prompt(22, 10), sampling=Sampling(max_tokens=2000)), broken)
    (events,) = run(engine, generate(prompt(23, 10)))
    assert ended.wait(60)
    assert finished(events).ids == finished(run(start(endless=True), generate(prompt(23, 10)))[0]).ids
    assert engine.stats().running_requests == 0


def test_close_fails_what_runs(endless_model: Model) -> None:
    engine = LLMEngine(endless_model, None, EngineOptions(kv_tokens=4096))
    watch = Watch()
    handle = engine.submit(GenerateRequest(prompt(24, 10), sampling=Sampling(max_tokens=2000)), watch)
    watch.wait_for(PromptDone)
    engine.close()
    engine.close()
    engine.cancel(handle)  # nothing is left to cancel
    failed = watch.events[-1]
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, EngineClosedError)
    with pytest.raises(EngineClosedError):
        engine.submit(generate(prompt(24, 10)), watch)


def test_a_profile_leaves_no_trace(start: Start) -> None:
    engine = start(kv_tokens=600)
    before = engine.stats()
    profile = engine.measure_profile(seconds=0.2)
    assert engine.stats() == before
    assert all(point.ms > 0 for point in profile.prefill)
    assert all(point.ms > 0 for point in profile.decode)
    assert profile.efficient_batch in {point.batch for point in profile.decode}
    assert all(point.cached + point.new <= 600 for point in profile.prefill)


def test_a_profile_spares_the_cache(start: Start, checkpoint: Any) -> None:
    engine = start(kv_tokens=600)
    ids = prompt(25, 100)
    run(engine, PrefillRequest(ids))
    engine.measure_profile(seconds=0.1)
    (events,) = run(engine, generate(ids))
    assert events[0] == PromptDone(cached_tokens=99, computed_tokens=1)
    assert finished(events).ids == checkpoint.greedy(ids, 6)


def test_info_describes_the_model(start: Start, model: Model) -> None:
    info = start(context_length=100).info
    assert (info.family, info.vocab_size, info.context_length) == ("llama", 160, 100)
    assert (info.dtype, info.device, info.total_slots) == ("float32", str(model.device), 4096)
    assert info.kv_bytes_per_token == 2 * 2 * 2 * 16 * 4


def test_an_error_outside_any_request_does_not_end_the_engine(
    start: Start, checkpoint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = start()
    run(engine, generate(prompt(26, 10)))

    def broken(*_: object) -> None:
        raise ZeroDivisionError("no plan")

    with monkeypatch.context() as patch:
        patch.setattr(Planner, "plan", broken)
        events = run(engine, generate(prompt(26, 10)), generate(prompt(27, 10)))
    assert all(isinstance(last, Failed) for (last,) in events)
    assert engine.stats().free_slots == 4096
    assert finished(run(engine, generate(prompt(26, 10)))[0]).ids == checkpoint.greedy(prompt(26, 10), 6)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_engine_that_cannot_start_afresh_closes(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = start()

    def broken(*_: object) -> None:
        raise ZeroDivisionError("no plan")

    monkeypatch.setattr(Planner, "plan", broken)
    monkeypatch.setattr(Planner, "reset", broken)
    with suppress(EngineClosedError):
        while True:
            (events,) = run(engine, generate(prompt(26, 10)))
            assert isinstance(events[-1], Failed)
