"""Cutting texts into passages, in the program's own process."""

from __future__ import annotations

from weft import Chunking, Document, Passage, tool
from weft.runtime.retrieval import chunking as retrieval
from weft.runtime.retrieval.documents import Document as Source

__all__ = ["parts_of", "passages_of"]


def passages_of(document: Document, chunking: Chunking | None = None) -> list[Passage]:
    """The passages of a document, as an index would have them; by default its paragraphs."""
    source = Source(document.id, document.text, document.source, document.metadata)
    return [
        Passage(part.id, part.text, 0.0, part.source, part.metadata)
        for part in retrieval.chunk(source, chunking or Chunking())
    ]


@tool(pure=True)
def parts_of(text: str, chars: int = 1000) -> list[str]:
    """The paragraphs of a text; those of more than `chars` characters are cut at the ends of sentences."""
    return [passage.text for passage in passages_of(Document("text", text), Chunking(max_chars=chars))]
