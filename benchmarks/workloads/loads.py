"""How the arms are asked: one question after another, in turn, or by people who come when they like."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from typing import Any

from .baselines import Run

__all__ = ["Call", "in_turn", "poisson", "quantiles"]

Call = tuple[Any, ...]
"""The arguments of one run."""


async def in_turn(arms: Mapping[str, Run], calls: Sequence[Call]) -> dict[str, list[float]]:
    """Milliseconds of each arm for each call, one at a time, another arm first each time.

    Raises AssertionError if two arms give different answers.
    """
    times: dict[str, list[float]] = {name: [] for name in arms}
    names = list(arms)
    for number, call in enumerate(calls):
        replies: dict[str, str] = {}
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            replies[name], ms = await _timed(arms[name], call)
            times[name].append(ms)
        assert len(set(replies.values())) == 1, f"the answers differ: {replies}"
    return times


async def poisson(run: Run, calls: Sequence[Call], per_s: float) -> tuple[list[float], list[str]]:
    """Milliseconds from arrival to answer, and the answers, if `per_s` calls arrive in a second on average.

    The arrivals are the same each time. What is asked while earlier runs go on adds to them.
    """
    rng = random.Random(1)
    running: list[asyncio.Task[tuple[str, float]]] = []
    for call in calls:
        running.append(asyncio.create_task(_timed(run, call)))
        await asyncio.sleep(rng.expovariate(per_s))
    done = await asyncio.gather(*running)
    return [ms for _, ms in done], [reply for reply, _ in done]


def quantiles(times: Sequence[float]) -> dict[str, float]:
    """The mean, and quantiles by the nearest rank."""
    ordered = sorted(times)
    rank = {f"p{q}": ordered[max(0, -(-q * len(ordered) // 100) - 1)] for q in (50, 95, 99)}
    return {"mean": sum(ordered) / len(ordered)} | rank


async def _timed(run: Run, call: Call) -> tuple[str, float]:
    began = time.perf_counter()
    reply = await run(*call)
    return reply, (time.perf_counter() - began) * 1e3
