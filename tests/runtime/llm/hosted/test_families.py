"""The engine computes with transformers' code what transformers computes with it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import weft
from weft.graph.sampling import Choices, Constraint, JsonSchema, Sampling
from weft.runtime.llm.blocking import run_requests
from weft.runtime.llm.engine import LLMEngine
from weft.runtime.llm.hosted.model import HostedModel
from weft.runtime.llm.model import Code, load_model
from weft.runtime.llm.options import EngineOptions, EngineStats
from weft.runtime.llm.requests import Finished, GenerateRequest, Scored, ScoreRequest
from weft.runtime.llm.tokenizer import Tokenizer

from .loading import DEVICE, KINDS, Kind, load_as

REFERENCE = Path(weft.__path__[0]) / "apps" / "reference_model" / "model"

_LENGTHS = (1, 2, 3, 5, 8, 11, 12, 13, 14, 15, 16, 17, 18, 19, 24, 30, 37, 64, 65, 130)


def prompts_of(name: str) -> list[tuple[int, ...]]:
    random.seed(name)
    return [tuple(random.choices(range(3, 160), k=length)) for length in _LENGTHS]


def outputs(engine: LLMEngine, requests: Sequence[GenerateRequest]) -> list[Finished]:
    answers = [events[-1] for events in run_requests(engine, requests, timeout=120)]
    finished = [last for last in answers if isinstance(last, Finished)]
    assert len(finished) == len(requests), answers
    return finished


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("token_budget", [7, 512])
def test_greedy_output_is_that_of_transformers(
    family: str, token_budget: int, kind: Kind, make_checkpoint: Callable[..., Any]
) -> None:
    checkpoint = make_checkpoint(family)
    prompts = prompts_of(family)
    requests = [GenerateRequest(ids, sampling=Sampling(max_tokens=4 + len(ids) % 9)) for ids in prompts]
    expected = {ids: checkpoint.greedy(ids, 4 + len(ids) % 9) for ids in prompts}
    random.shuffle(requests)
    options = EngineOptions(kv_tokens=2048, token_budget=token_budget, max_running=24, verify=True)
    with LLMEngine(load_as(kind, checkpoint.folder), None, options) as engine:
        alone = outputs(engine, requests[:1])
        assert alone[0].ids == expected[requests[0].ids]
        engine.flush()
        for cache in ("empty", "warm"):
            for request, found in zip(requests, outputs(engine, requests), strict=True):
                assert found.ids == expected[request.ids], f"{cache} cache, prompt of {len(request.ids)}"
        stats = engine.stats()
    assert stats.cached_tokens >= sum(_LENGTHS) - len(_LENGTHS), (
        "the second time, prompts were computed again"
    )
    assert stats.free_slots + stats.cached_slots == 2048
    assert len(set(expected.values())) > 12, "the model answers all prompts alike, so the test shows little"


def test_a_prefix_that_another_prompt_left_changes_nothing(
    family: str, make_checkpoint: Callable[..., Any]
) -> None:
    checkpoint = make_checkpoint(family)
    stem = prompts_of(family)[-1][:90]
    asked = [
        GenerateRequest((*stem, *tail), sampling=Sampling(max_tokens=6)) for tail in ((5, 9), (7,), (9,) * 9)
    ]
    with LLMEngine(
        load_as(KINDS[0], checkpoint.folder), None, EngineOptions(kv_tokens=512, max_running=4, verify=True)
    ) as engine:
        for index, request in enumerate(asked):
            (found,) = outputs(engine, [request])
            assert found.ids == checkpoint.greedy(request.ids, 6)
            assert found.cached_tokens == (90 if index else 0)


@pytest.mark.parametrize("kind", KINDS)
def test_options_are_scored_by_their_raw_log_probabilities(
    family: str, kind: Kind, make_checkpoint: Callable[..., Any]
) -> None:
    checkpoint = make_checkpoint(family)
    prefix = prompts_of(family)[11]
    options = ((7,), (7, 8, 9), (100, 4, 4, 20, 3), (7, 8))
    with LLMEngine(
        load_as(kind, checkpoint.folder), None, EngineOptions(kv_tokens=256, max_running=4, verify=True)
    ) as engine:
        ((*_, scored),) = run_requests(engine, [ScoreRequest(prefix, options)], timeout=60)
    assert isinstance(scored, Scored), scored
    for option, found in zip(options, scored.logprobs, strict=True):
        ids = torch.tensor([[*prefix, *option]])
        with torch.inference_mode():
            logprobs = checkpoint.model(ids, use_cache=False).logits[0].log_softmax(-1)
        expected = [float(logprobs[len(prefix) - 1 + at, token]) for at, token in enumerate(option)]
        assert found == pytest.approx(expected, abs=2e-3)


_SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "kind": {"enum": ["residential", "residual"]},
        "ok": {"type": "boolean"},
    },
    "required": ["name", "kind", "ok"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("name", ["gemma2", "gpt2", "gpt_neox", "mixtral"])
def test_forced_tokens_change_no_text(name: str, make_checkpoint: Callable[..., Any]) -> None:
    tokenizer = Tokenizer.from_folder(REFERENCE)
    model = load_as(KINDS[0], make_checkpoint(name, vocab_size=4096).folder)
    prompt = tuple(tokenizer.encode("The river of the town is long. Answer:", bos=True))
    constraints: tuple[Constraint, ...] = (
        JsonSchema(json.dumps(_SCHEMA)),
        Choices(("a thoroughly positive review", "a thoroughly negative one")),
    )
    asked = [
        GenerateRequest((*prompt, seed), sampling=Sampling(max_tokens=80), constraint=constraint)
        for constraint in constraints
        for seed in (10, 11, 12)
    ]

    def run(forced: bool) -> tuple[list[Finished], EngineStats]:
        options = EngineOptions(
            kv_tokens=2048, max_running=8, forced_tokens=forced, prompt_lookup=False, verify=True
        )
        with LLMEngine(model, tokenizer, options) as engine:
            return outputs(engine, asked), engine.stats()

    (plain, without), (drafted, stats) = run(False), run(True)
    assert [one.ids for one in drafted] == [one.ids for one in plain]
    assert (stats.held_tokens > 10, without.held_tokens, stats.steps < without.steps) == (True, 0, True)
    for found in plain[:3]:
        assert json.loads(found.text)["kind"] in ("residential", "residual")
    assert all("thoroughly" in found.text for found in plain[3:])


def test_both_codes_compute_the_same_llama(make_checkpoint: Callable[..., Any]) -> None:
    checkpoint = make_checkpoint("llama")
    requests = [GenerateRequest(ids, sampling=Sampling(max_tokens=8)) for ids in prompts_of("llama")]
    found = []
    codes: tuple[Code, ...] = ("weft", "transformers")
    for code in codes:
        model = load_model(checkpoint.folder, dtype="float32", device=DEVICE, code=code)
        assert isinstance(model, HostedModel) == (code == "transformers" and DEVICE == "cpu")
        with LLMEngine(model, None, EngineOptions(kv_tokens=1024, max_running=24)) as engine:
            found.append([one.ids for one in outputs(engine, requests)])
            assert ("through transformers" in engine.info.family) == (code == "transformers")
    assert found[0] == found[1]
