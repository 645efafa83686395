"""The workloads as whole programs: what a user of weft writes."""

from __future__ import annotations

from typing import Any, Literal

from weft import Document, Static, Var, cond, fold, gen, ingest, map, program, rerank, search
from weft.apps.contextual_retrieval.program import Part
from weft.apps.instructions import BRIEF, EXPAND, NOT_FOUND, REFINE
from weft.apps.search_answer.program import TRUST

from . import modules
from .modules import CONTEXTUAL, INDEX, TOKENS, answer, combine, find, look_up, refine

EACH = 16
"""Passages that are searched for with each query."""

MANY = 8
"""Passages that an answer is refined over."""


@program
def advanced_rag(question: str, documents: list[Document]) -> str:
    """Index the user's documents, expand, search, rerank to 3, answer, refine twice (Teola, section 7)."""
    ingest(INDEX, documents)
    queries = gen(f"Question: {question}", system=EXPAND, type=list[str], max_tokens=64, name="expand")
    best = rerank(question, search(INDEX, queries, k=EACH), k=3)
    context = f"Context:\n{best[0].text}\n\nQuestion: {question}"
    reply = gen(context, system=BRIEF, max_tokens=TOKENS, name="answer")
    for place in (1, 2):
        prompt = f"Question: {question}\nPrevious answer: {reply}\nNew passage: {best[place].text}"
        reply = gen(prompt, system=REFINE, max_tokens=TOKENS, name="refine")
    return reply


@program
def naive_rag_refine(question: str) -> str:
    """Search 3 passages and refine an answer over them."""
    found = find(question, k=3)
    reply = answer(question, found[0].text)
    for place in (1, 2):
        reply = refine(question, reply, found[place].text)
    return reply


@program
def naive_rag_tree(question: str) -> str:
    """Search 3 passages, answer from each, combine."""
    found = find(question, k=3)
    partial = [answer(question, found[place].text) for place in range(3)]
    return combine(question, *partial)


@program
def refine_chain(question: str) -> str:
    """Search 8 passages and refine, over each of them, what is no answer yet."""
    found = find(question, k=MANY)
    return fold(lambda reply, passage: refine(question, reply, passage.text), found, NOT_FOUND)


@program
def search_engine(question: str, delay_ms: Static[int]) -> str:
    """Guess; if a judge does not trust that, expand, look each query up in the web, and answer."""
    guess = modules.guess(question)
    proposed = f"Question: {question}\nProposed answer: {guess}"
    trusted = gen(proposed, system=TRUST, type=Literal["yes", "no"], max_tokens=4, name="trust")

    def searched() -> str:
        queries = modules.expand(question)
        pages = map(lambda query: look_up(query, delay_ms), queries)
        return modules.answer_from(question, pages)

    return cond(trusted.equals("yes"), guess, searched)


@program
def contextual(question: str, parts: list[Part]) -> str:
    """Index passages behind what they are about, search, rerank to 1, answer."""

    def situated(part: Var[Part]) -> dict[str, Any]:
        context = modules.situate(part.text, part.around)
        return {"id": part.id, "text": f"{context}\n{part.text}"}

    ingest(CONTEXTUAL, map(situated, parts))
    best = rerank(question, search(CONTEXTUAL, question, k=8), k=1)
    return answer(question, best[0].text)
