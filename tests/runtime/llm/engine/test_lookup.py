"""Texts that copy from their contexts take fewer steps by lookup, and are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import weft
from weft.apps.reference_model.corpus import documents
from weft.graph.sampling import Regex, Sampling
from weft.runtime.llm.model import Model
from weft.runtime.llm.options import EngineStats
from weft.runtime.llm.requests import Finished, GenerateRequest
from weft.runtime.llm.tokenizer import Tokenizer

from .drafting import assert_same, written
from .loading import KINDS, load_as

REFERENCE = Path(weft.__path__[0]) / "apps" / "reference_model" / "model"
SUMMARIZE = "Summarize the passage in one line that lists its facts."


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_folder(REFERENCE)


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest) -> Model:
    return load_as(request.param, REFERENCE)


def requests(tokenizer: Tokenizer, temperature: float) -> list[GenerateRequest]:
    """Summaries, which consist of what the passage says; every third must begin with a word of ours."""
    passages = documents()[0].text.split("\n\n")[1:10]
    head, tail = f"<|system|>{SUMMARIZE}<|end|><|user|>Passage: ", "<|end|><|assistant|>"
    return [
        GenerateRequest(
            tuple(tokenizer.encode(f"{head}{passage}{tail}", bos=True)),
            sampling=Sampling(
                max_tokens=7 if number == 4 else 40,
                temperature=temperature,
                seed=number,
                stop=(";",) if number == 3 else (),
            ),
            constraint=Regex(r"Facts: .*") if number % 3 == 2 else None,
            logprobs=2 if number == 1 else None,
        )
        for number, passage in enumerate(passages)
    ]


def results(
    model: Model, tokenizer: Tokenizer, asked: list[GenerateRequest], **options: Any
) -> tuple[list[Finished], EngineStats]:
    """See `written`; nothing else is drafted unless a test says so."""
    return written(model, tokenizer, asked, **({"forced_tokens": False} | options))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_outputs_with_and_without_lookup_are_equal(
    model: Model, tokenizer: Tokenizer, temperature: float
) -> None:
    asked = requests(tokenizer, temperature)
    plain, without = results(model, tokenizer, asked, prompt_lookup=False)
    drafted, stats = results(model, tokenizer, asked, prompt_lookup=True)
    assert_same(plain, drafted)
    assert (without.drafted_tokens, without.held_tokens) == (0, 0)
    assert stats.generated_tokens == without.generated_tokens
    assert stats.drafted_tokens >= stats.held_tokens > 0
    assert stats.steps < without.steps


def test_drafts_survive_a_small_pool(model: Model, tokenizer: Tokenizer) -> None:
    asked = requests(tokenizer, 0.0)
    roomy, _ = results(model, tokenizer, asked)
    tight, stats = results(model, tokenizer, asked, kv_tokens=180, token_budget=24)
    assert [one.ids for one in tight] == [one.ids for one in roomy]
    assert stats.held_tokens > 0
    assert (stats.running_slots, stats.free_slots + stats.cached_slots) == (0, 180)


def test_forced_text_and_what_the_context_has_are_both_drafted(model: Model, tokenizer: Tokenizer) -> None:
    asked = [one for one in requests(tokenizer, 0.0) if one.constraint is not None]
    plain, _ = results(model, tokenizer, asked, prompt_lookup=False)
    _, forced = results(model, tokenizer, asked, prompt_lookup=False, forced_tokens=True)
    found, both = results(model, tokenizer, asked, forced_tokens=True)
    assert [one.ids for one in found] == [one.ids for one in plain]
    assert both.held_tokens > forced.held_tokens > 0


def test_steps_are_begun_ahead_until_a_draft_promises_more(tokenizer: Tokenizer, ahead: list[int]) -> None:
    """Two texts that copy after some words of their own; one that samples evenly has nothing to copy."""
    model = load_as("gpu", REFERENCE)
    copying = [one for one in requests(tokenizer, 0.0) if one.constraint is None and one.logprobs is None]
    plain, without = results(model, tokenizer, copying[:2], prompt_lookup=False)
    always = len(ahead)
    ahead.clear()
    drafted, stats = results(model, tokenizer, copying[:2])
    assert_same(plain, drafted)
    assert stats.held_tokens > 0
    assert 0 < len(ahead) < always <= without.steps

    ahead.clear()
    noise = GenerateRequest((1, 5), sampling=Sampling(max_tokens=30, temperature=50.0, seed=1))
    _, stats = results(model, tokenizer, [noise])
    assert stats.drafted_tokens <= 2
    assert len(ahead) > 20
