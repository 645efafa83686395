"""The engine computes what transformers computes."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from weft.graph.sampling import Sampling
from weft.runtime.llm.blocking import run_requests
from weft.runtime.llm.engine import LLMEngine
from weft.runtime.llm.options import EngineOptions
from weft.runtime.llm.requests import Finished, GenerateRequest

from .loading import KINDS, Kind, load_as

_LENGTHS = (*range(1, 25), 30, 37, 45, 64, 65, 90, 130, 300)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("token_budget", [7, 512])
def test_greedy_output_is_that_of_transformers(
    family: str, token_budget: int, kind: Kind, make_checkpoint: Callable[[str], Any]
) -> None:
    checkpoint = make_checkpoint(family)
    random.seed(family)
    prompts = [tuple(random.choices(range(3, 160), k=length)) for length in _LENGTHS]
    requests = [GenerateRequest(ids, sampling=Sampling(max_tokens=4 + len(ids) % 9)) for ids in prompts]
    expected = [checkpoint.greedy(request.ids, request.sampling.max_tokens) for request in requests]
    random.shuffle(requests)
    by_prompt = dict(zip(prompts, expected, strict=True))
    options = EngineOptions(kv_tokens=4096, token_budget=token_budget, verify=True)
    with LLMEngine(load_as(kind, checkpoint.folder), None, options) as engine:
        reasons = set()
        for cache in ("empty", "warm"):
            answers = run_requests(engine, requests, timeout=60)
            for request, events in zip(requests, answers, strict=True):
                last = events[-1]
                assert isinstance(last, Finished), last
                reasons.add(last.finish_reason)
                assert last.ids == by_prompt[request.ids], f"{cache} cache, prompt of {len(request.ids)}"
        assert engine.stats().free_slots + engine.stats().cached_slots == 4096
    assert len(prompts) == 32
    assert len(set(expected)) > 20, "the model answers all prompts alike, so the test shows little"
    assert reasons == {"stop", "length"}
