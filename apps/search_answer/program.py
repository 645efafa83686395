"""Answer from what a model knows; if a judge does not trust that, answer from what the web says."""

from __future__ import annotations

import importlib
from typing import Any, Final, Literal

from weft import Passage, RetryPolicy, Static, cond, gen, program, tool
from weft.apps.instructions import ANSWER, EXPAND

PROXY: Final = (
    "Answer the question in a few words, from what you know. If you do not know the answer, reply: not found"
)
TRUST: Final = (
    "Judge whether the proposed answer is certainly correct, with no need to look it up. Reply yes or no."
)


@tool(timeout=20, retry=RetryPolicy(attempts=3, backoff=0.5), idempotent=True)
def web_search(queries: list[str], engine: str, k: int) -> list[Passage]:
    """The `k` best pages for each query, each page once.

    `engine` names the function that searches, as ``module:function``; it takes a query and `k`, and gives
    pages as objects {url, text}.
    """
    module, _, function = engine.partition(":")
    search = getattr(importlib.import_module(module), function)
    pages: list[dict[str, Any]] = [page for query in queries for page in search(query, k)]
    texts = {page["url"]: page["text"] for page in pages}
    return [Passage(url, text, 0.0, url) for url, text in texts.items()]


@program
def answer(question: str, k: int = 3, engine: Static[str] = "weft.apps.search_answer.offline:search") -> str:
    """The answer to `question`, with citations if it was searched for."""
    draft = gen(f"Question: {question}", system=PROXY, max_tokens=48, name="proxy")
    proposed = f"Question: {question}\nProposed answer: {draft}"
    trusted = gen(proposed, system=TRUST, type=Literal["yes", "no"], max_tokens=4, name="judge")

    def searched() -> str:
        queries = gen(f"Question: {question}", system=EXPAND, type=list[str], max_tokens=96, name="queries")
        pages = web_search(queries, engine, k)
        return gen(f"Passages:\n{pages}\n\nQuestion: {question}", system=ANSWER, max_tokens=64, name="answer")

    return cond(trusted.equals("yes"), draft, searched)
