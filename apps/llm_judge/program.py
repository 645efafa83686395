"""Judge proposed answers to a question by the passages that a search finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from weft import Static, Var, gen, map, neighbours, program, search
from weft.apps.instructions import JUDGE


@dataclass
class Verdict:
    """What the judge says of one answer."""

    answer: str
    correct: bool


@program
def judge(question: str, answers: list[str], index: Static[str] = "handbook") -> list[Verdict]:
    """A verdict on each of `answers`, side by side; what they share is read once."""
    passages = neighbours(index, search(index, question, k=4))

    def verdict(proposed: Var[str]) -> Verdict:
        prompt = f"Passages:\n{passages}\n\nQuestion: {question}\nProposed answer: {proposed}"
        reply = gen(prompt, system=JUDGE, type=Literal["yes", "no"], max_tokens=4)
        return Verdict(proposed, reply.equals("yes"))

    return map(verdict, answers)
