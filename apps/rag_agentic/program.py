"""Search, answer, judge the answer, and search again with other words until it holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from weft import gen, neighbours, program, search
from weft.apps.citations import Cited
from weft.apps.instructions import ANSWER, EXPAND, JUDGE, NOT_FOUND


@dataclass
class Found:
    """An answer, the passages that it cites, and what was searched for."""

    answer: str
    sources: list[str] = field(default_factory=list[str])
    """The ids of the passages, such as companies.md#3."""
    queries: list[str] = field(default_factory=list[str])


@program
async def answer(question: str, index: str = "handbook", rounds: int = 3) -> Found:
    """The answer to `question` after at most `rounds` searches."""
    queries = [question]
    for turn in range(1, rounds + 1):
        passages = neighbours(index, search(index, queries, k=2 * turn), preceding=0)
        reply = gen(f"Passages:\n{passages}\n\nQuestion: {question}", system=ANSWER, max_tokens=64)
        cited = Cited(await reply, await passages)
        if cited.text != NOT_FOUND:
            proposed = f"Question: {question}\nProposed answer: {cited.text}"
            verdict = gen(f"Passages:\n{passages}\n\n{proposed}", system=JUDGE, type=Literal["yes", "no"])
            if await verdict == "yes":
                return Found(cited.text, [passage.id for passage in cited.sources], queries)
        if turn == 1:
            queries = await gen(f"Question: {question}", system=EXPAND, type=list[str], max_tokens=96)
    return Found(NOT_FOUND, [], queries)
