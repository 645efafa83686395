"""Text that a grammar forces is computed in one step, and outputs are what they would be without that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import weft
from weft.graph.sampling import Choices, Constraint, JsonSchema, Regex, Sampling
from weft.runtime.llm.grammar import GrammarCompiler
from weft.runtime.llm.model import Model, load_model
from weft.runtime.llm.options import EngineStats
from weft.runtime.llm.requests import Finished, GenerateRequest
from weft.runtime.llm.tokenizer import Tokenizer

from .drafting import assert_same, written

REFERENCE = Path(weft.__path__[0]) / "apps" / "reference_model" / "model"

_SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "kind": {"enum": ["residential", "residual"]},
        "born_in_the_year": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    },
    "required": ["name", "kind", "born_in_the_year", "tags"],
    "additionalProperties": False,
}
_CONSTRAINTS: tuple[Constraint, ...] = (
    JsonSchema(json.dumps(_SCHEMA)),
    Choices(("a thoroughly positive review", "a thoroughly negative one", "neither")),
    Choices(("日本語です", "日曜日だ🎉")),
    Regex(r"The year is (19|20)\d\d, and the month is (May|March)\."),
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_folder(REFERENCE)


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(REFERENCE, device="cpu")


def requests(tokenizer: Tokenizer, temperature: float) -> list[GenerateRequest]:
    prompt = tuple(tokenizer.encode("Passage: the river of the town is long.\nAnswer:", bos=True))
    return [
        GenerateRequest(
            (*prompt, 10 + seed),
            sampling=Sampling(
                max_tokens=90, temperature=temperature, seed=seed, stop=("march",) if seed == 2 else ()
            ),
            constraint=constraint,
            logprobs=2 if seed == 1 else None,
        )
        for constraint in _CONSTRAINTS
        for seed in range(3)
    ]


def results(
    model: Model, tokenizer: Tokenizer, asked: list[GenerateRequest], **options: Any
) -> tuple[list[Finished], EngineStats]:
    """See `written`; nothing else is drafted unless a test says so."""
    return written(model, tokenizer, asked, **({"prompt_lookup": False} | options))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_outputs_with_and_without_forced_tokens_are_equal(
    model: Model, tokenizer: Tokenizer, temperature: float
) -> None:
    asked = requests(tokenizer, temperature)
    plain, without = results(model, tokenizer, asked, forced_tokens=False)
    forced, stats = results(model, tokenizer, asked)
    assert_same(plain, forced)
    assert (without.drafted_tokens, without.held_tokens) == (0, 0)
    assert stats.generated_tokens == without.generated_tokens
    assert stats.drafted_tokens >= stats.held_tokens > stats.generated_tokens / 4
    assert stats.steps < without.steps


def test_forced_tokens_survive_a_small_pool(model: Model, tokenizer: Tokenizer) -> None:
    asked = requests(tokenizer, 0.0)
    roomy, _ = results(model, tokenizer, asked)
    tight, stats = results(model, tokenizer, asked, kv_tokens=120, token_budget=24)
    assert [one.ids for one in tight] == [one.ids for one in roomy]
    assert stats.held_tokens > 0
    assert (stats.running_slots, stats.free_slots + stats.cached_slots) == (0, 120)


def test_what_is_forced_is_a_continuation_of_every_text_of_the_grammar(tokenizer: Tokenizer) -> None:
    compiler = GrammarCompiler(tokenizer, 4096, tokenizer.eos_ids)
    matcher = compiler.compile(Choices(("ab" * 9 + "c", "ab" * 9 + "d")), 40).matcher()
    assert tokenizer.decode_continuation(list(matcher.forced())) == "ab" * 9
    for token in tokenizer.encode_continuation("ab" * 9):
        matcher.accept(token)
    assert matcher.forced() == ()


def test_masks_behind_a_draft_are_those_behind_the_same_tokens(tokenizer: Tokenizer) -> None:
    compiler = GrammarCompiler(tokenizer, 4096, tokenizer.eos_ids)
    grammar = compiler.compile(_CONSTRAINTS[0], 90)
    drafting, stepping = grammar.matcher(), grammar.matcher()
    draft = list(drafting.forced())
    assert len(draft) > 2
    masks = torch.zeros((len(draft) + 1, 128), dtype=torch.int32)
    drafting.fill(masks, 0, draft)
    for row, token in enumerate([*draft, None]):
        mask = torch.zeros((1, 128), dtype=torch.int32)
        stepping.fill(mask, 0)
        assert torch.equal(mask[0], masks[row])
        if token is not None:
            stepping.accept(token)
    again = torch.zeros((1, 128), dtype=torch.int32)
    drafting.fill(again, 0)
    assert torch.equal(again[0], masks[0])


def test_behind_an_end_in_a_draft_the_masks_stay_as_they_are(tokenizer: Tokenizer) -> None:
    compiler = GrammarCompiler(tokenizer, 4096, tokenizer.eos_ids)
    matcher = compiler.compile(Regex("no.*"), 40).matcher()
    no, end = tokenizer.encode_continuation("no")[0], min(tokenizer.eos_ids)
    masks = torch.full((4, 128), 7, dtype=torch.int32)
    matcher.fill(masks, 0, [no, end, no])
    assert (masks[:2] != 7).any(dim=1).all()
    assert (masks[2:] == 7).all()
    matcher.fill(masks, 2)
    assert torch.equal(masks[0], masks[2])


def test_a_draft_may_hold_what_no_text_may(tokenizer: Tokenizer, capfd: pytest.CaptureFixture[str]) -> None:
    """A draft from the context may go on into the next message of a conversation."""
    compiler = GrammarCompiler(tokenizer, 4096, tokenizer.eos_ids)
    matcher = compiler.compile(Regex("no.*"), 40).matcher()
    no, (user,) = tokenizer.encode_continuation("no")[0], tokenizer.encode("<|user|>", bos=False)
    masks = torch.full((4, 128), 7, dtype=torch.int32)
    matcher.fill(masks, 0, [no, user, no])
    assert (masks[:2] != 7).any(dim=1).all()
    assert (masks[2:] == 7).all()
    assert capfd.readouterr().err == ""
