"""The workloads as whole programs: what a user of weft writes."""

from __future__ import annotations

from weft import Document, gen, ingest, program, rerank, search

from .modules import EXPAND, INDEX, PLAIN, REFINE, TOKENS, answer, combine, find, refine

EACH = 16
"""Passages that are searched for with each query."""


@program
def advanced_rag(question: str, documents: list[Document]) -> str:
    """Index the user's documents, expand, search, rerank to 3, answer, refine twice (Teola, section 7)."""
    ingest(INDEX, documents)
    queries = gen(f"Question: {question}", system=EXPAND, type=list[str], max_tokens=64, name="expand")
    best = rerank(question, search(INDEX, queries, k=EACH), k=3)
    context = f"Context:\n{best[0].text}\n\nQuestion: {question}"
    reply = gen(context, system=PLAIN, max_tokens=TOKENS, name="answer")
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
