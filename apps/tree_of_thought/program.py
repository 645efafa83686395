"""Solve a problem by trying several next thoughts at each step, and going on from the best ones."""

from __future__ import annotations

import asyncio
from typing import Final, Literal

from weft import gen, program

THINK: Final = "Solve the problem step by step. Write only the next step, in one sentence."
RATE: Final = "Rate how promising the steps are, from 0 (wrong) to 3 (surely right). Reply with one number."
CONCLUDE: Final = "Give the final answer to the problem in a few words."


@program
async def solve(problem: str, depth: int = 3, thoughts: int = 3, beam: int = 2, seed: int = 1) -> str:
    """The answer after `depth` steps; `thoughts` are tried for each of the `beam` best lines of thought."""
    lines = [""]
    for step in range(depth):
        grown = await asyncio.gather(*(_grow(problem, line, thoughts, seed + step) for line in lines))
        tried = [line for lines in grown for line in lines]
        ratings = await asyncio.gather(*(_rate(problem, line) for line in tried))
        best = sorted(zip(ratings, tried, strict=True), key=lambda pair: -pair[0])[:beam]
        lines = [line for _, line in best]
    return gen(f"Problem: {problem}\nSteps:{lines[0]}", system=CONCLUDE, max_tokens=48, name="conclude")


async def _grow(problem: str, line: str, thoughts: int, seed: int) -> list[str]:
    """The line of thought with each of several next thoughts, drawn at a temperature."""
    prompt = f"Problem: {problem}\nSteps:{line}\n- "
    drawn = gen(
        prompt, system=THINK, max_tokens=48, stop="\n", temperature=0.8, n=thoughts, seed=seed, name="think"
    )
    return [f"{line}\n- {thought}" for thought in await drawn]


async def _rate(problem: str, line: str) -> int:
    """How promising a line of thought is."""
    rating = gen(f"Problem: {problem}\nSteps:{line}", system=RATE, type=Literal[0, 1, 2, 3], name="rate")
    return int(await rating)
