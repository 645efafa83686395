"""Choosing and rating: what every engine of language models does alike, given how it weighs tokens."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from weft.graph.ops.primitive import Rate, Score
from weft.graph.values import Datum, Json, TextValue
from weft.runtime.llm.context import Context
from weft.runtime.llm.requests import Scored
from weft.runtime.llm.tokenizer import Tokenizer
from weft.runtime.retrieval.rerank import top_k

from ..faults import invalid_arguments
from .base import Operands
from .operands import count_of, passages_of
from .rating import aligned, all_of, expected, prompts_of
from .scoring import Aligned, judge, mean_scores

__all__ = ["Weighing", "rate", "score"]

Weighing = Callable[[Aligned], Coroutine[Any, Any, Scored]]
"""The log-probability of every token of each option."""


async def score(
    op: Score, options: Aligned, tokenizer: Tokenizer, weigh: Weighing
) -> tuple[tuple[Datum, ...], Scored]:
    """The best of the choices, which stand in `options`, and the score of each; and how they were weighed."""
    scored = await weigh(options)
    alone: tuple[tuple[float, ...], ...] = ()
    if op.method == "unconditional":
        alone = (await weigh(options._replace(prefix=(tokenizer.start_id,)))).logprobs
    chosen, scores = judge(op.method, options.options, scored.logprobs, alone)
    return (TextValue(op.choices[chosen]), Json(scores)), scored


async def rate(
    op: Rate, operands: Operands, tokenizer: Tokenizer, weigh: Weighing
) -> tuple[tuple[Datum, ...], list[Scored]]:
    """The best passages, and how each passage's choices were weighed; all passages are weighed at once."""
    passages, count = passages_of(operands["passages"]), count_of(operands, "k")
    empty = Context.empty(tokenizer)
    prompts = prompts_of(empty, op, operands["query"], [passage.text for passage in passages])
    weighed = await all_of([weigh(prompt) for prompt in aligned(prompts, op.choices)])
    ratings = [expected(op.values, mean_scores(scored.logprobs)) for scored in weighed]
    with invalid_arguments():
        best = top_k(passages, ratings, count)
    return (Json([passage.to_json() for passage in best]),), weighed
