"""Rating passages: their prompts, the mean of what a model's choices are worth, and many requests at once."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from weft.graph.ops.primitive import Rate
from weft.graph.prompt import Slot
from weft.graph.values import Datum, TextValue
from weft.runtime.llm.context import Context

from .contexts import read
from .scoring import Aligned, align

__all__ = ["aligned", "all_of", "expected", "prompts_of"]

T = TypeVar("T")


def prompts_of(empty: Context, op: Rate, query: Datum, texts: Sequence[str]) -> list[Context]:
    """What is asked of each text. What stands before the passages is cut into tokens once, for all."""
    place = next((i for i, p in enumerate(op.pieces) if isinstance(p, Slot) and p.name == "passage"), 0)
    begun = read(empty, op.pieces[:place], {"query": query})
    begun.settled_ids()
    return [read(begun, op.pieces[place:], {"query": query, "passage": TextValue(text)}) for text in texts]


def aligned(prompts: Sequence[Context], choices: Sequence[str]) -> list[Aligned]:
    """Each prompt with the choices behind it, which are cut into tokens once for all that end alike."""
    if not prompts:
        return []
    first = prompts[0]
    one, final = _aligned(first, choices), len(first.settled_ids())
    open_end = one.prefix[final:]
    return [
        one._replace(prefix=(*prompt.settled_ids(), *open_end))
        if len(one.prefix) >= final and prompt.ends_like(first)
        else _aligned(prompt, choices)
        for prompt in prompts
    ]


def _aligned(prompt: Context, choices: Sequence[str]) -> Aligned:
    return align(prompt.ids(), [prompt.append_text(choice).ids() for choice in choices])


def expected(values: Sequence[float], scores: Sequence[float]) -> float:
    """The mean of `values` under softmax of `scores`, one a value."""
    highest = max(scores)
    weights = [math.exp(score - highest) for score in scores]
    weighed = sum(weight * value for weight, value in zip(weights, values, strict=True))
    return weighed / sum(weights)


async def all_of(calls: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all calls. If one fails or this is cancelled, it raises when the others have ended."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except ExceptionGroup as problems:
        raise problems.exceptions[0] from None
    return [task.result() for task in tasks]
