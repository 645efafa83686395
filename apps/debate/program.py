"""Debaters answer side by side, read each other's answers, and answer again; a moderator sums up."""

from __future__ import annotations

from typing import Final

from weft import Context, Static, gen, neighbours, program, search
from weft.apps.instructions import ANSWER, COMBINE
from weft.graph.ops.common import SearchMode

MODES: Final[tuple[SearchMode, ...]] = ("lexical", "vector", "hybrid")
"""Debaters differ in how they look for evidence."""


@program
def debate(question: str, rounds: Static[int] = 1, index: Static[str] = "handbook") -> str:
    """What the debaters agree on after `rounds` rounds in which each has heard the others."""
    debaters: list[Context] = []
    for mode in MODES:
        passages = neighbours(index, search(index, question, k=3, mode=mode))
        debaters.append(Context(system=ANSWER).user(f"Passages:\n{passages}\n\nQuestion: {question}"))
    answers = [debater.gen(max_tokens=48, name="opening") for debater in debaters]
    for _ in range(rounds):
        said = "\n".join(f"- {answer}" for answer in answers)
        for debater in debaters:
            debater.user(f"The debaters have said:\n{said}\nQuestion: {question}")
        answers = [debater.gen(max_tokens=48, name="rebuttal") for debater in debaters]
    said = "\n".join(f"- {answer}" for answer in answers)
    prompt = f"Question: {question}\nPartial answers:\n{said}"
    return gen(prompt, system=COMBINE, max_tokens=48, name="moderator")
