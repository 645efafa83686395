"""Texts that a grammar lets models write."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import TypeAdapter

from weft.runtime.llm.grammar import CompiledGrammar, Matcher, apply_mask
from weft.runtime.llm.tokenizer import Tokenizer

PADDING = 5  # columns of the logits beyond the vocabulary


def decode(matcher: Matcher, width: int, limit: int, generator: torch.Generator) -> list[int]:
    """Sample from random logits until the matcher says that the text is complete."""
    mask = torch.zeros(1, (width + 31) // 32, dtype=torch.int32)
    ids: list[int] = []
    while not matcher.finished and len(ids) < limit:
        logits = torch.randn(1, width, generator=generator)
        matcher.fill(mask, 0)
        apply_mask(logits, mask, [0])
        ids.append(matcher.accept(int(logits[0].argmax())))
    return ids


def texts(tokenizer: Tokenizer, grammar: CompiledGrammar, count: int) -> list[str]:
    generator = torch.Generator().manual_seed(count)
    results = []
    for _ in range(count):
        matcher = grammar.matcher()
        ids = decode(matcher, tokenizer.vocab_size + PADDING, grammar.max_tokens, generator)
        assert matcher.finished
        results.append(tokenizer.decode_continuation(ids))
    return results


def read_back(tokenizer: Tokenizer, grammar: CompiledGrammar, kind: Any, count: int) -> None:
    """See that pydantic reads so many texts as `kind`."""
    for text in texts(tokenizer, grammar, count):
        TypeAdapter[Any](kind).validate_json(text)


def follow(tokenizer: Tokenizer, matcher: Matcher, text: str) -> list[int]:
    """Feed `text` a character at a time; return the tokens taken."""
    return [matcher.accept(token) for char in text for token in tokenizer.encode_continuation(char)]
