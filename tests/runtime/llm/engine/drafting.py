"""Engines with and without drafts, on the reference model: what they write, and that it is the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from weft.runtime.llm.blocking import run_requests
from weft.runtime.llm.engine import LLMEngine
from weft.runtime.llm.model import Model
from weft.runtime.llm.options import EngineOptions, EngineStats
from weft.runtime.llm.requests import Delta, Finished, GenerateRequest
from weft.runtime.llm.tokenizer import Tokenizer

__all__ = ["assert_same", "written"]


def written(
    model: Model, tokenizer: Tokenizer, asked: Sequence[GenerateRequest], **options: Any
) -> tuple[list[Finished], EngineStats]:
    """What became of the requests; their deltas must make up their texts."""
    settings = EngineOptions(**({"kv_tokens": 4096, "verify": True} | options))
    with LLMEngine(model, tokenizer, settings) as engine:
        events = run_requests(engine, asked, timeout=120)
        stats = engine.stats()
    for found in events:
        deltas = [event for event in found if isinstance(event, Delta)]
        last = found[-1]
        assert isinstance(last, Finished), last
        assert "".join(delta.text for delta in deltas) == last.text
        assert tuple(token for delta in deltas for token in delta.ids)[: len(last.ids)] == last.ids
    return [last for found in events if isinstance(last := found[-1], Finished)], stats


def assert_same(plain: Sequence[Finished], drafted: Sequence[Finished]) -> None:
    """The same texts, with the same probabilities but for rounding."""
    assert [(one.text, one.ids, one.tail, one.finish_reason) for one in drafted] == [
        (one.text, one.ids, one.tail, one.finish_reason) for one in plain
    ]
    for left, right in zip(plain, drafted, strict=True):
        assert [weighed.id for weighed in right.logprobs] == [weighed.id for weighed in left.logprobs]
        for before, after in zip(left.logprobs, right.logprobs, strict=True):
            assert after.logprob == pytest.approx(before.logprob, abs=1e-3)
