"""Answer a question from the passages that a search finds, with citations."""

from __future__ import annotations

from weft import Static, gen, neighbours, program, search
from weft.apps.citations import Cited
from weft.apps.instructions import ANSWER


@program
def cited_answer(question: str, k: int = 6, index: Static[str] = "handbook") -> Cited:
    """The answer to `question`, and the passages that the model read for it: `k` and their neighbours."""
    passages = neighbours(index, search(index, question, k=k))
    reply = gen(f"Passages:\n{passages}\n\nQuestion: {question}", system=ANSWER, max_tokens=64)
    return Cited(reply, passages)


@program
def answer(question: str, k: int = 6, index: Static[str] = "handbook") -> str:
    """The answer to `question`, citing passages by number."""
    return cited_answer(question, k=k, index=index).answer
