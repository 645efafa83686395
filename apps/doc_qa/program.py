"""Answer a question from an index of the user's own files, and name the files."""

from __future__ import annotations

from dataclasses import dataclass

from weft import Passage, Static, gen, neighbours, program, rerank, search, tool
from weft.apps.citations import Cited
from weft.apps.instructions import ANSWER


@dataclass
class Sourced:
    """An answer, and where it stands."""

    answer: str
    sources: list[str]
    """Files, with their pages if they have any: ``manual.pdf, page 3``."""


@tool(pure=True)
def sources_of(reply: str, passages: list[Passage]) -> list[str]:
    """The files of the passages that a reply cites, each once."""
    cited = Cited(reply, passages).sources
    pages = [f", page {passage.metadata['page']}" if "page" in passage.metadata else "" for passage in cited]
    return list(dict.fromkeys(passage.source + page for passage, page in zip(cited, pages, strict=True)))


@program
def answer(question: str, index: Static[str] = "handbook", k: int = 2) -> Sourced:
    """The answer to `question`, read from the `k` best passages of an index and those around them."""
    best = rerank(question, search(index, question, k=8), k=k)
    passages = neighbours(index, best)
    reply = gen(f"Passages:\n{passages}\n\nQuestion: {question}", system=ANSWER, max_tokens=96)
    return Sourced(reply, sources_of(reply, passages))
