"""The modules of the workloads: programs of one operation, which the baselines call one by one."""

from __future__ import annotations

from typing import Any

from weft import Document, Passage, Static, gen, ingest, program, rerank, search

EXPAND = "Write three short search queries for the question. Reply with a JSON list of three strings."
PLAIN = (
    "Answer the question from the context in a few words, without citations. If the context does not contain "
    "the answer, reply: not found"
)
REFINE = (
    "Refine the previous answer with the new passage. If the passage answers the question, give its answer; "
    "otherwise repeat the previous answer."
)
COMBINE = "Combine the partial answers into one final answer. Ignore partial answers that say not found."
JUDGE = "Judge whether the proposed answer is correct according to the passages. Reply yes or no."
INDEX = "bench"
TOKENS = 24


@program
def store(documents: list[Document]) -> dict[str, Any]:
    """Index the user's documents."""
    return ingest(INDEX, documents)


@program
def expand(question: str) -> list[str]:
    """Three queries."""
    return gen(f"Question: {question}", system=EXPAND, type=list[str], max_tokens=64, name="expand")


@program
def find(query: str, k: Static[int]) -> list[Passage]:
    """The passages for one query."""
    return search(INDEX, query, k=k)


@program
def rank(question: str, passages: list[Passage], k: Static[int]) -> list[Passage]:
    """The passages that answer the question best."""
    return rerank(question, passages, k=k)


@program
def answer(question: str, context: str) -> str:
    """The answer from one context."""
    return gen(f"Context:\n{context}\n\nQuestion: {question}", system=PLAIN, max_tokens=TOKENS, name="answer")


@program
def refine(question: str, previous: str, passage: str) -> str:
    """The answer after one more passage."""
    prompt = f"Question: {question}\nPrevious answer: {previous}\nNew passage: {passage}"
    return gen(prompt, system=REFINE, max_tokens=TOKENS, name="refine")


@program
def combine(question: str, first: str, second: str, third: str) -> str:
    """One answer of three."""
    prompt = f"Question: {question}\nPartial answers:\n- {first}\n- {second}\n- {third}"
    return gen(prompt, system=COMBINE, max_tokens=TOKENS, name="combine")


@program
def judge(question: str, context: str, proposed: str) -> str:
    """Whether an answer is right."""
    prompt = f"Passages:\n{context}\n\nQuestion: {question}\nProposed answer: {proposed}"
    return gen(prompt, system=JUDGE, choices=["yes", "no"], name="judge")
