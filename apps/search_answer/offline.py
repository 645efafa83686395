"""A search engine that needs no network: the demo corpus as a small web."""

from __future__ import annotations

from functools import cache

import numpy as np

from weft.apps.reference_model.corpus import documents
from weft.apps.splitting import passages_of
from weft.runtime.retrieval.bm25 import Bm25, TermIds

__all__ = ["search"]


def search(query: str, k: int) -> list[dict[str, str]]:
    """The `k` pages that share most with the query, as {url, text}; fewer if no more share a word with it."""
    pages, ranking = _web()
    scores = ranking.scores(query)
    best = [row for row in np.argsort(-scores, kind="stable")[:k] if scores[row] > 0]
    return [pages[row] for row in best]


@cache
def _web() -> tuple[list[dict[str, str]], Bm25]:
    """A page for each passage, which shows the beginning of the next one, too."""
    pages: list[dict[str, str]] = []
    for document in documents():
        passages = passages_of(document)
        for passage, after in zip(passages, [*passages[1:], None], strict=True):
            text = passage.text if after is None else f"{passage.text}\n{after.text}"
            pages.append({"url": f"https://demo.invalid/{passage.id}", "text": text})
    texts = [page["text"] for page in pages]
    return pages, Bm25.build(texts, TermIds.of(texts))
