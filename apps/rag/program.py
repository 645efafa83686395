"""Answer questions from an index of passages, with citations."""

from __future__ import annotations

from dataclasses import dataclass

from weft import Passage, Static, gen, program, rerank, search

EXPAND = "Write three short search queries for the question. Reply with a JSON list of three strings."
ANSWER = (
    "Answer the question using only the numbered passages. Give the answer and the passage number in "
    "brackets. If the passages do not contain the answer, reply: not found"
)


@dataclass
class Cited:
    """An answer whose ``[2]`` means the second of its passages."""

    answer: str
    passages: list[Passage]


@program
def cited_answer(question: str, k: int = 3, index: Static[str] = "handbook") -> Cited:
    """The answer to `question`, and the `k` passages that the model read for it."""
    queries = gen(f"Question: {question}", system=EXPAND, type=list[str], max_tokens=96, name="expand")
    passages = search(index, queries, k=8)  # one search a query
    best = rerank(question, passages, k=k)
    reply = gen(f"Passages:\n{best}\n\nQuestion: {question}", system=ANSWER, max_tokens=64, name="answer")
    return Cited(reply, best)


@program
def answer(question: str, k: int = 3, index: Static[str] = "handbook") -> str:
    """The answer to `question`, citing passages by number."""
    return cited_answer(question, k=k, index=index).answer
