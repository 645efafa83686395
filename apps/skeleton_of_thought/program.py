"""Write an outline first, then all of its points side by side."""

from __future__ import annotations

from dataclasses import dataclass

from weft import Static, Var, gen, map, neighbours, program, search
from weft.apps.instructions import ANSWER, OUTLINE


@dataclass
class Point:
    """One point of an article."""

    heading: str
    text: str


@program
def article(topic: str, index: Static[str] = "handbook") -> list[Point]:
    """The points that an index has on `topic`; each is written as soon as its heading is."""
    passages = neighbours(index, search(index, topic, k=3))
    prompt = f"Passages:\n{passages}\n\nTopic: {topic}"
    headings = gen(prompt, system=OUTLINE, type=list[str], max_tokens=64, name="outline")

    def expand(heading: Var[str]) -> Point:
        prompt = f"Passages:\n{passages}\n\nQuestion: Tell me the {heading} of {topic}."
        return Point(heading, gen(prompt, system=ANSWER, max_tokens=48, name="point"))

    return map(expand, headings)
