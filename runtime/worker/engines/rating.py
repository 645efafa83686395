"""Rating passages: the mean of what a model's choices are worth, and many requests at once."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

__all__ = ["all_of", "expected"]

T = TypeVar("T")


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
