"""`weft bench gpu --loads copying`, on a CPU and a model that is small enough for it."""

from __future__ import annotations

import random

import pytest
import torch
from engines.models import counting_model
from gpus import copying as load
from gpus.prompts import Ids

from weft.graph.sampling import Sampling
from weft.runtime.llm.blocking import run_requests
from weft.runtime.llm.engine import LLMEngine
from weft.runtime.llm.options import EngineOptions
from weft.runtime.llm.requests import Finished, GenerateRequest

VOCAB = 4096


def test_a_share_of_the_text_stands_in_the_prompt_by_runs() -> None:
    for share in load.SHARES:
        prompt = load.prompt_with(share, VOCAB, random.Random(5))
        text = range(prompt[-1] + 1, prompt[-1] + 1 + load._OUTPUT)
        assert sum(token in text for token in prompt) == round(share * load._OUTPUT)
        assert prompt.index(prompt[-1]) == len(prompt) - 1, "nothing but the last token leads to the text"


@pytest.mark.parametrize("lookup", [True, False])
def test_a_counting_model_counts(lookup: bool) -> None:
    model = counting_model("tiny-llama", torch.float32, torch.device("cpu"))
    prompt: Ids = load.prompt_with(0.5, VOCAB, random.Random(6))
    request = GenerateRequest(prompt, sampling=Sampling(max_tokens=64))
    with LLMEngine(model, None, EngineOptions(kv_tokens=4096, prompt_lookup=lookup)) as engine:
        ((*_, last),) = run_requests(engine, [request], timeout=60)
        steps = engine.stats().steps
    assert isinstance(last, Finished)
    assert last.ids == tuple(range(prompt[-1] + 1, prompt[-1] + 65))
    assert (steps < 64) == lookup
