"""Expand a question, search for each query, rerank, and refine the answer passage by passage."""

from __future__ import annotations

from dataclasses import dataclass

from weft import Passage, Static, Var, cond, fold, gen, map, neighbours, program, rerank, search
from weft.apps.instructions import EXPAND, NOT_FOUND, REFINE


@dataclass
class Refined:
    """An answer, and the passage that it was last changed for."""

    answer: str
    source: str = ""
    """The id of the passage, such as companies.md#3; none if no passage had an answer."""


@program
def answer(question: str, k: int = 3, index: Static[str] = "handbook") -> Refined:
    """The answer to `question` after the `k` best passages of an index, the best one last."""
    queries = gen(f"Question: {question}", system=EXPAND, type=list[str], max_tokens=96, name="expand")
    passages = search(index, queries, k=8)  # one search a query, as soon as it is written
    best = rerank(question, passages, k=k)

    def refine(so_far: Refined, passage: Var[Passage]) -> Refined:
        around = map(lambda near: near.text, neighbours(index, [passage]))
        prompt = f"Question: {question}\nPrevious answer: {so_far.answer}\nNew passage: {around}"
        refined = gen(prompt, system=REFINE, max_tokens=48, name="refine")
        same = refined.equals(so_far.answer)
        return Refined(refined, cond(same, so_far.source, passage.id))

    return fold(refine, best, Refined(NOT_FOUND))
