"""A step that is begun before the one before it has been looked at changes nothing that is written."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from weft.graph.sampling import Sampling
from weft.runtime.llm.blocking import run_requests
from weft.runtime.llm.engine import LLMEngine
from weft.runtime.llm.model import Model
from weft.runtime.llm.options import EngineOptions
from weft.runtime.llm.requests import Delta, Event, Failed, Finished, GenerateRequest

from .loading import load_as

RANDOM = random.Random(5)
REQUESTS = [
    GenerateRequest(
        tuple(RANDOM.choices(range(3, 160), k=RANDOM.randrange(1, 60))),
        sampling=Sampling(max_tokens=RANDOM.randrange(1, 40), temperature=number % 3 / 2, seed=number),
        logprobs=1 if number % 11 == 0 else None,
    )
    for number in range(40)
]


@pytest.fixture(scope="module")
def model(make_checkpoint: Callable[[str], Any]) -> Model:
    return load_as("gpu", make_checkpoint("qwen3").folder)


def texts(model: Model, **options: Any) -> list[tuple[tuple[int, ...], str]]:
    with LLMEngine(model, None, EngineOptions(verify=True, **options)) as engine:
        found = [events[-1] for events in run_requests(engine, REQUESTS, timeout=120)]
        stats = engine.stats()
        assert stats.running_slots == 0
        assert stats.free_slots + stats.cached_slots == options["kv_tokens"]
    assert all(isinstance(event, Finished) for event in found)
    return [(event.ids, event.finish_reason) for event in found if isinstance(event, Finished)]


@pytest.mark.parametrize("kv_tokens", [300, 4096])
@pytest.mark.parametrize("max_running", [3, 64])
def test_texts_are_the_same(model: Model, ahead: list[int], kv_tokens: int, max_running: int) -> None:
    options = {"kv_tokens": kv_tokens, "max_running": max_running, "token_budget": 64}
    with_it = texts(model, **options)
    assert ahead, "no step was begun ahead, so this shows nothing"
    begun = len(ahead)
    assert with_it == texts(model, overlap=False, **options)
    assert len(ahead) == begun
    assert {reason for _, reason in with_it} == {"stop", "length"}


def test_steps_are_begun_ahead_while_others_wait_for_a_place(model: Model, ahead: list[int]) -> None:
    """Two run and four wait; steps behind which a place becomes free are not begun ahead."""
    endless = load_like(model)
    requests = [GenerateRequest((7 + n, 8, 9), sampling=Sampling(max_tokens=20)) for n in range(6)]
    found = []
    for overlap in (True, False):
        options = EngineOptions(kv_tokens=4096, max_running=2, overlap=overlap, verify=True)
        with LLMEngine(endless, None, options) as engine:
            finished = [events[-1] for events in run_requests(engine, requests, timeout=120)]
        found.append([event.ids for event in finished if isinstance(event, Finished)])
    assert found[0] == found[1]
    assert [len(ids) for ids in found[0]] == [20] * 6
    assert ahead.count(2) > 40, "three pairs of 20 tokens: two pairs have others behind them"


def test_cancelling_in_the_middle_of_a_step_leaves_the_others(model: Model, ahead: list[int]) -> None:
    endless = load_like(model)
    engine = LLMEngine(endless, None, EngineOptions(kv_tokens=4096, verify=True))
    written, ended = threading.Semaphore(0), threading.Semaphore(0)
    last: dict[int, Event] = {}
    handles: list[int] = []

    def sink(number: int) -> Callable[[Sequence[Event]], None]:
        def take(events: Sequence[Event]) -> None:
            for event in events:
                if isinstance(event, Delta):
                    written.release()
                if isinstance(event, Failed | Finished):
                    last[number] = event
                    ended.release()

        return take

    with engine:
        for number in range(6):
            request = GenerateRequest((7 + number, 8, 9), sampling=Sampling(max_tokens=200))
            handles.append(engine.submit(request, sink(number)))
        for number in range(0, 6, 2):
            for _ in range(40):
                assert written.acquire(timeout=60)
            engine.cancel(handles[number])
        for _ in range(6):
            assert ended.acquire(timeout=60)
        assert engine.stats().running_slots == 0
        alone = run_requests(
            engine, [GenerateRequest((8, 8, 9), sampling=Sampling(max_tokens=200))], timeout=60
        )[0][-1]
    assert [isinstance(last[number], Failed) for number in range(6)] == [True, False] * 3
    kept = last[1]
    assert isinstance(kept, Finished)
    assert isinstance(alone, Finished)
    assert kept.ids == alone.ids
    assert len(kept.ids) == 200
    assert ahead


def load_like(model: Model) -> Model:
    """The same model, but no token ends its texts."""
    other = object.__new__(type(model))
    other.__dict__.update(model.__dict__)
    other.config = replace(model.config, eos_ids=frozenset())
    return other
