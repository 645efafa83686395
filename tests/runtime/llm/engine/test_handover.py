"""KV that one engine computes and another one uses."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weft.graph.sampling import Sampling
from weft.runtime.kv.cache import KVCache
from weft.runtime.kv.pool import KVPool
from weft.runtime.kv.radix import Tokens
from weft.runtime.llm.blocking import run_requests
from weft.runtime.llm.engine import LLMEngine
from weft.runtime.llm.errors import EngineClosedError
from weft.runtime.llm.handover import Handover, KvSpan
from weft.runtime.llm.limits import Limits
from weft.runtime.llm.model import Model, load_model
from weft.runtime.llm.options import EngineOptions
from weft.runtime.llm.planner import Planner
from weft.runtime.llm.requests import Finished, GenerateRequest, PrefillRequest
from weft.runtime.llm.runner import ModelRunner

PROMPT = tuple(3 + (7 * at * at + at) % 150 for at in range(200))
IDS = np.asarray(PROMPT, dtype=np.int64)


class Start(Protocol):
    def __call__(self, **options: Any) -> LLMEngine: ...


@pytest.fixture(scope="module")
def model(make_checkpoint: Callable[[str], Any]) -> Model:
    return load_model(make_checkpoint("llama").folder, device="cpu")


@pytest.fixture
def start(model: Model) -> Iterator[Start]:
    """Starts engines that check every slot after every step, and closes them."""
    engines: list[LLMEngine] = []

    def start(**options: Any) -> LLMEngine:
        engine = LLMEngine(model, None, EngineOptions(**{"kv_tokens": 1024, "verify": True} | options))
        engines.append(engine)
        return engine

    yield start
    for engine in engines:
        engine.close()


def answer(engine: LLMEngine, ids: tuple[int, ...] = PROMPT, namespace: str = "") -> Finished:
    request = GenerateRequest(ids, namespace, sampling=Sampling(max_tokens=12))
    event = run_requests(engine, [request], timeout=60)[0][-1]
    assert isinstance(event, Finished), event
    return event


def read(engine: LLMEngine, ids: tuple[int, ...] = PROMPT, namespace: str = "") -> None:
    run_requests(engine, [PrefillRequest(ids, namespace)], timeout=60)


def taken(engine: LLMEngine, first: int = 0, ids: Tokens = IDS, namespace: str = "") -> KvSpan:
    span = engine.take_kv(namespace, ids, first, 60.0).result(60)
    assert span is not None
    return span


def test_what_another_engine_has_read_gives_the_same_text(start: Start) -> None:
    alone, reader, writer = start(), start(), start()
    read(reader)
    span = taken(reader)
    assert (span.first, span.end) == (0, len(PROMPT))
    assert writer.give_kv("", IDS, span).result(60) == len(PROMPT)
    got, expected = answer(writer), answer(alone)
    assert got.ids == expected.ids
    assert got.cached_tokens == len(PROMPT) - 1
    assert writer.stats().computed_tokens == 1


def test_kv_travels_in_parts_behind_what_is_held(start: Start) -> None:
    reader, writer = start(), start()
    read(reader)
    read(writer, PROMPT[:50])
    first = writer.held("", IDS).result(60)
    assert first == 50
    span = taken(reader, first)
    for at in range(first, len(PROMPT), 40):
        part = span.part(at, min(at + 40, len(PROMPT)))
        assert writer.give_kv("", IDS, part).result(60) == part.end - at
    assert writer.held("", IDS).result(60) == len(PROMPT)
    assert answer(writer).ids == answer(start()).ids


def test_a_part_that_follows_on_nothing_is_left(start: Start) -> None:
    reader, writer = start(), start()
    read(reader)
    span = taken(reader)
    with pytest.raises(LookupError, match="holds 0 tokens"):
        writer.give_kv("", IDS, span.part(100, 200)).result(60)
    assert writer.give_kv("", IDS, span.part(0, 100)).result(60) == 100
    assert writer.give_kv("", IDS, span.part(0, 100)).result(60) == 0
    assert writer.give_kv("", IDS, span.part(60, 140)).result(60) == 40
    assert writer.held("", IDS).result(60) == 140


def test_namespaces_stay_apart(start: Start) -> None:
    reader = start()
    read(reader, namespace="a")
    assert reader.take_kv("b", IDS, 0, 60.0).result(60) is None
    writer = start()
    writer.give_kv("b", IDS, taken(reader, namespace="a")).result(60)
    assert writer.held("a", IDS).result(60) == 0


def test_too_little_is_not_sent(start: Start) -> None:
    reader = start()
    read(reader)
    assert reader.take_kv("", IDS, len(PROMPT) - 5, 60.0).result(60) is None
    other = np.asarray([5, 5, 5, *PROMPT], dtype=np.int64)
    assert reader.take_kv("", other, 0, 60.0).result(60) is None


def test_a_full_pool_takes_nothing_from_running_requests(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = start(), start(kv_tokens=64)
    read(reader)
    span = taken(reader)
    with pytest.raises(LookupError, match="200 tokens do not fit"):
        writer.give_kv("", IDS, span).result(60)
    assert writer.give_kv("", IDS, span.part(0, 60)).result(60) == 60
    assert len(answer(writer, PROMPT[:50]).ids) == 12


def test_what_cannot_be_copied_fails_who_asked_for_it_alone(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = start(), start()
    read(reader)
    span = taken(reader)

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(KVPool, "read", fail)
        patch.setattr(KVPool, "write", fail)
        with pytest.raises(torch.OutOfMemoryError):
            reader.take_kv("", IDS, 0, 60.0).result(60)
        with pytest.raises(LookupError, match="200 tokens cannot be stored: out of memory"):
            writer.give_kv("", IDS, span).result(60)
    assert answer(reader).cached_tokens == len(PROMPT) - 1
    assert answer(writer).cached_tokens == 0


@dataclass
class Hold:
    """Engines compute nothing before `go_on`."""

    begun: threading.Event
    go_on: threading.Event


@pytest.fixture
def hold(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hold]:
    hold = Hold(threading.Event(), threading.Event())
    run = ModelRunner.run

    def held_up(runner: ModelRunner, *args: Any) -> torch.Tensor:
        hold.begun.set()
        assert hold.go_on.wait(60)
        return run(runner, *args)

    monkeypatch.setattr(ModelRunner, "run", held_up)
    yield hold
    hold.go_on.set()


def test_it_waits_for_what_is_being_computed(start: Start, hold: Hold) -> None:
    reader = start(token_budget=64)
    reader.submit(PrefillRequest(PROMPT), lambda _: None)
    assert hold.begun.wait(60)
    patient = reader.take_kv("", IDS, 0, 60.0)
    hurried = reader.take_kv("", IDS, 0, 0.0)
    hold.go_on.set()
    span = patient.result(60)
    assert span is not None
    assert span.end > len(PROMPT) - 16
    assert span.waited_s > 0
    early = hurried.result(60)
    assert early is not None
    assert early.end == 64
    at_once = reader.take_kv("", IDS, 0, 60.0).result(60)
    assert at_once is not None
    assert at_once.waited_s == 0


def test_whoever_gives_up_waiting_is_forgotten(start: Start, hold: Hold) -> None:
    reader = start()
    reader.submit(PrefillRequest(PROMPT), lambda _: None)
    assert hold.begun.wait(60)
    wish = reader.take_kv("", IDS, 0, 60.0)
    assert wish.cancel()
    hold.go_on.set()
    assert answer(reader).cached_tokens == len(PROMPT) - 1


def test_closing_fails_those_that_wait(start: Start, hold: Hold) -> None:
    reader = start(token_budget=64)
    reader.submit(PrefillRequest(PROMPT), lambda _: None)
    assert hold.begun.wait(60)
    wish = reader.take_kv("", IDS, 0, 60.0)
    closing = threading.Thread(target=reader.close)
    closing.start()
    with suppress(EngineClosedError):
        while True:
            reader.held("", IDS)
    hold.go_on.set()
    with pytest.raises(EngineClosedError):
        wish.result(60)
    closing.join()


@given(st.integers(0, 120), st.integers(0, 120), st.integers(0, 120), st.integers(40, 160))
def test_the_cache_is_whole_whatever_is_given(held: int, first: int, count: int, slots: int) -> None:
    cache = KVCache(slots)
    pool = KVPool.allocate(
        layers=2, slots=slots, kv_heads=1, head_dim=2, dtype=torch.float32, device=torch.device("cpu")
    )
    handover = Handover(Planner(cache, Limits(512, 64, 8, 1.0)), pool)
    marks = torch.arange(240.0).view(1, 240, 1, 1).expand(2, 240, 1, 2)
    whole = KvSpan(0, marks, -marks)
    before = new = 0
    with suppress(LookupError):
        before = handover.give("", IDS, whole.part(0, held), 1.0)
    assert before == (held if 0 < held <= slots else 0)
    end = min(first + count, len(IDS))
    with suppress(LookupError):
        new = handover.give("", IDS, whole.part(first, max(end, first)), 2.0)
    cache.check()
    assert cache.running == 0
    assert cache.available == slots
    match = cache.match("", IDS, 3.0)
    assert len(match.slots) in (before, before + new)
    keys, values = pool.read(torch.from_numpy(match.slots))
    assert torch.equal(keys, marks[:, : len(match.slots)])
    assert torch.equal(values, -keys)
