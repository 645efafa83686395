"""What every engine of language models does alike: refusing prompts, choosing and rating by its weights."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from weft.graph.ops.primitive import Rate, Score, Weigh
from weft.graph.values import Datum, Json, TextValue
from weft.runtime.llm.context import Context
from weft.runtime.llm.requests import Scored
from weft.runtime.llm.tokenizer import Tokenizer
from weft.runtime.retrieval.rerank import top_k

from ..faults import TaskError, invalid_arguments
from .base import Operands
from .operands import count_of, passages_of
from .rating import aligned, all_of, expected, prompts_of
from .scoring import Aligned, judge, mean_scores

__all__ = ["Weighing", "expect_room", "rate", "score", "start_of"]

Weighing = Callable[[Aligned], Coroutine[Any, Any, Scored]]
"""The log-probability of every token of each option."""


def expect_room(model: str, prompt: int, least: int, context_length: int) -> None:
    """Refuse no prompt, and one with which `least` tokens exceed the context. Raises TaskError."""
    if not prompt:
        raise TaskError("invalid", "the prompt is empty: a model continues at least one token")
    if prompt + least > context_length:
        raise TaskError(
            "too_large",
            f"the prompt has {prompt} tokens and at least {least} follow, but the context of model "
            f"{model!r} holds {context_length}; shorten the prompt",
        )


def start_of(op: Weigh, prompt: int) -> int:
    """The first token to be weighed, of a prompt of so many. Raises TaskError for one behind its end."""
    if op.start is not None and op.start > prompt:
        raise TaskError("invalid", f"start is {op.start}, but the prompt has only {prompt} tokens")
    return prompt if op.start is None else op.start


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
