"""Tokens with their log-probabilities as data: `weft.graph.types.TOKENS`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from weft.runtime.llm.requests import PromptDone, Scored, Weighed
from weft.runtime.llm.tokenizer import Tokenizer

__all__ = ["as_data", "weighed_prompt"]

_LEAST: Final = -9999.0  # stands for minus infinity, which JSON cannot say


def weighed_prompt(ids: tuple[int, ...], done: Scored | PromptDone) -> list[Weighed]:
    """The last tokens of a prompt, of which all were scored but perhaps its very first."""
    logprobs = done.logprobs[0] if isinstance(done, Scored) else ()
    tops = done.top[0] if isinstance(done, Scored) and done.top else [()] * len(logprobs)
    unweighed = len(ids) - len(logprobs)
    first = [Weighed(token, None) for token in ids[:unweighed]]
    return first + [Weighed(*each) for each in zip(ids[unweighed:], logprobs, tops, strict=True)]


def as_data(weighed: Iterable[Weighed], tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """JSON data, with what each token spells: bytes, and text with U+FFFD for a part of a character."""
    return [
        {**_token(each.id, each.logprob, tokenizer), "top": [_token(*rival, tokenizer) for rival in each.top]}
        for each in weighed
    ]


def _token(token: int, logprob: float | None, tokenizer: Tokenizer) -> dict[str, Any]:
    spelling = tokenizer.spelling(token)
    return {
        "id": token,
        "text": spelling.decode("utf-8", "replace"),
        "bytes": list(spelling),
        "logprob": None if logprob is None else max(logprob, _LEAST),
    }
