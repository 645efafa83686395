"""The modules of the workloads: programs of one operation, which the baselines call one by one."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from weft import Document, Passage, Static, gen, ingest, program, rerank, search, tool
from weft.apps.contextual_retrieval.program import SITUATE
from weft.apps.instructions import BRIEF, COMBINE, EXPAND, REFINE
from weft.apps.search_answer import offline
from weft.apps.search_answer.program import PROXY, TRUST

INDEX = "bench"
CONTEXTUAL = "bench_contextual"
TOKENS = 24


@program
def store(documents: list[Document], index: Static[str] = INDEX) -> dict[str, Any]:
    """Index the user's documents."""
    return ingest(index, documents)


@program
def expand(question: str) -> list[str]:
    """Three queries."""
    return gen(f"Question: {question}", system=EXPAND, type=list[str], max_tokens=64, name="expand")


@program
def find(query: str, k: Static[int], index: Static[str] = INDEX) -> list[Passage]:
    """The passages for one query."""
    return search(index, query, k=k)


@program
def rank(question: str, passages: list[Passage], k: Static[int]) -> list[Passage]:
    """The passages that answer the question best."""
    return rerank(question, passages, k=k)


@program
def answer(question: str, context: str) -> str:
    """The answer from one context."""
    return gen(f"Context:\n{context}\n\nQuestion: {question}", system=BRIEF, max_tokens=TOKENS, name="answer")


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
def guess(question: str) -> str:
    """What a model says without looking anything up."""
    return gen(f"Question: {question}", system=PROXY, max_tokens=TOKENS, name="guess")


@program
def trust(question: str, proposed: str) -> Literal["yes", "no"]:
    """Whether that needs no looking up."""
    prompt = f"Question: {question}\nProposed answer: {proposed}"
    return gen(prompt, system=TRUST, type=Literal["yes", "no"], max_tokens=4, name="trust")


@tool(idempotent=True)
async def look_up(query: str, delay_ms: int) -> str:
    """The best page of the offline web for a query, as late as a real one would come."""
    await asyncio.sleep(delay_ms / 1e3)
    return "\n".join(page["text"] for page in offline.search(query, 1))


@program
def answer_from(question: str, pages: list[str]) -> str:
    """The answer from what was looked up."""
    return gen(f"Context:\n{pages}\n\nQuestion: {question}", system=BRIEF, max_tokens=TOKENS, name="answer")


@program
def situate(text: str, around: str) -> str:
    """What a passage is about, from the text around it."""
    prompt = f"Around it: {around}\n\nPassage: {text}"
    return gen(prompt, system=SITUATE, max_tokens=TOKENS, stop="\n", name="situate")
