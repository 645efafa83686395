"""KV of layers of two widths wanders to the host and to another engine like any other."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest

from weft.graph.sampling import Sampling
from weft.runtime.llm.blocking import run_requests
from weft.runtime.llm.engine import LLMEngine
from weft.runtime.llm.model import Model
from weft.runtime.llm.options import EngineOptions
from weft.runtime.llm.requests import Finished, GenerateRequest

from ..checkpoints import Checkpoint
from .loading import KINDS, Kind, load_as

Ids = tuple[int, ...]


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint: Callable[..., Checkpoint]) -> Checkpoint:
    return make_checkpoint("gemma4")


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, checkpoint: Checkpoint) -> Model:
    kind: Kind = request.param
    return load_as(kind, checkpoint.folder)


def ask(engine: LLMEngine, ids: Ids) -> Finished:
    ((*_, last),) = run_requests(engine, [GenerateRequest(ids, sampling=Sampling(max_tokens=6))], timeout=60)
    assert isinstance(last, Finished), last
    return last


def prompts(count: int, length: int) -> list[Ids]:
    chance = random.Random(4)
    return [tuple(chance.choices(range(3, 160), k=length)) for _ in range(count)]


def test_texts_after_a_stay_on_the_host(model: Model, checkpoint: Checkpoint) -> None:
    asked = prompts(4, 50)
    options = EngineOptions(kv_tokens=96, host_kv_tokens=512, max_running=2, verify=True)
    with LLMEngine(model, None, options) as engine:
        for ids in asked * 2:
            assert ask(engine, ids).ids == checkpoint.greedy(ids, 6)
        assert engine.stats().restored_tokens > 40


def test_texts_over_kv_of_another_engine(model: Model, checkpoint: Checkpoint) -> None:
    (ids,) = prompts(1, 60)
    options = EngineOptions(kv_tokens=128, max_running=2, verify=True)
    with LLMEngine(model, None, options) as first, LLMEngine(model, None, options) as second:
        before = ask(first, ids)
        span = first.take_kv("", np.array(ids), 0, 1.0).result(10)
        assert span is not None
        second.give_kv("", np.array(ids), span).result(10)
        after = ask(second, ids)
    assert (before.cached_tokens, after.cached_tokens) == (0, 59)
    assert after.ids == before.ids == checkpoint.greedy(ids, 6)
