"""Contextual retrieval: passages are indexed behind a line in which a model says what they are about."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel

from weft import Document, Static, Var, gen, ingest, map, program, search
from weft.apps.instructions import ANSWER
from weft.apps.splitting import passages_of

SITUATE: Final = (
    "Summarize the passage in one line, with the names that the text around it gives to what it is about."
)


class Part(BaseModel):
    """A passage of a document, and the text around it."""

    id: str
    text: str
    around: str
    source: str = ""


def parts_of(document: Document, window: int = 2) -> list[Part]:
    """The passages of a document, each with the `window` passages before and after it."""
    passages = passages_of(document)
    texts = [passage.text for passage in passages]
    return [
        Part(
            id=passage.id,
            text=passage.text,
            around="\n".join(
                [*texts[max(0, place - window) : place], *texts[place + 1 : place + 1 + window]]
            ),
            source=passage.source,
        )
        for place, passage in enumerate(passages)
    ]


@program
def fill(parts: list[Part], index: Static[str] = "contextual") -> dict[str, Any]:
    """Put passages into an index, each behind its context."""

    def situate(part: Var[Part]) -> dict[str, Any]:
        prompt = f"Around it: {part.around}\n\nPassage: {part.text}"
        context = gen(prompt, system=SITUATE, max_tokens=32, stop="\n", name="situate")
        return {"id": part.id, "text": f"{context}\n{part.text}", "source": part.source}

    return ingest(index, map(situate, parts))


@program
def answer(question: str, k: int = 6, index: Static[str] = "contextual") -> str:
    """The answer to `question` from an index that `fill` has made, citing passages by number."""
    passages = search(index, question, k=k)
    return gen(f"Passages:\n{passages}\n\nQuestion: {question}", system=ANSWER, max_tokens=64, name="answer")
