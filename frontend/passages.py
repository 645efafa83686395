"""Documents and passages as programs see them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from pydantic import AfterValidator

from weft.graph.values import Json, render

from .pytypes import PyType, py_type

__all__ = ["FOUND", "Document", "Passage", "Passages"]


@dataclass(frozen=True)
class Document:
    """A text to put into an index. A document of the same id replaces it later."""

    id: str
    text: str
    source: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Passage:
    """A piece of a document, as a search finds it. It reads as its text."""

    id: str
    text: str
    score: float = 0.0
    source: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.text


class Passages(list[Passage]):
    """Passages, best first. They read as numbered lines, in async programs as in prompts: ``[1] …``."""

    def __str__(self) -> str:
        return render(Json([{"id": p.id, "text": p.text, "score": p.score} for p in self]))


FOUND: Final[PyType] = py_type(Annotated[list[Passage], AfterValidator(Passages)])
"""The Python type of what `search` and `rerank` give."""
