"""Operands as the engines of retrieval want them; what does not fit is refused with a fault `invalid`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weft.graph.values import Datum, Json, VectorsValue, plain, render
from weft.runtime.retrieval.documents import Chunk, Document, Passage
from weft.runtime.retrieval.filters import Where, where_of

from ..faults import TaskError, invalid_arguments
from .base import Operands

__all__ = ["chunks_of", "condition_of", "count_of", "documents_of", "passages_of", "texts_of", "vectors_of"]


def texts_of(datum: Datum) -> tuple[str, ...]:
    """One text, or the items of a list, each as it reads in a prompt."""
    value = plain(datum)
    items = value if isinstance(value, list) else [value]
    return tuple(render(Json(item)) for item in items)


def count_of(operands: Operands, name: str) -> int:
    """A whole number of at least 1."""
    value = plain(operands[name])
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise TaskError("invalid", f"{name} must be an integer from 1, not {value!r}")
    return value


def condition_of(operands: Operands) -> Where:
    """What passages have to meet, by the operand `where`; without it, nothing."""
    if "where" not in operands:
        return ()
    with invalid_arguments():
        return where_of(plain(operands["where"]))


def vectors_of(datum: Datum) -> NDArray[np.float32]:
    """float32 [texts, dimension]."""
    if not isinstance(datum, VectorsValue):
        raise TaskError("invalid", f"vectors must be embeddings, not a {type(datum).__name__}")
    return datum.array


def passages_of(datum: Datum) -> list[Passage]:
    """Passages; those that nobody has scored yet count as 0."""
    with invalid_arguments():
        return [Passage.from_json(_scored(item)) for item in _list_of(datum, "passages")]


def chunks_of(datum: Datum) -> list[Chunk]:
    """The chunks that a `chunk` primitive made."""
    with invalid_arguments():
        return [Chunk.from_json(item) for item in _list_of(datum, "chunks")]


def documents_of(datum: Datum) -> list[Document]:
    """Documents from texts, or from objects {id, text, source?, metadata?}.

    Texts get the ids `doc-1`, `doc-2`, … by their place in the list, so those of another ingest into the same
    index replace them: give ids to documents that are to stay.
    """
    with invalid_arguments():
        documents = _list_of(datum, "documents")
        return [_document(item, place) for place, item in enumerate(documents, start=1)]


def _document(item: object, place: int) -> Document:
    if isinstance(item, str):
        return Document(f"doc-{place}", item)
    try:
        return Document.from_json(item)
    except ValueError as problem:
        raise ValueError(f"documents[{place - 1}]: {problem}") from None


def _scored(item: object) -> object:
    return {"score": 0.0, **item} if isinstance(item, dict) else item


def _list_of(datum: Datum, what: str) -> list[object]:
    value = plain(datum)
    if not isinstance(value, list):
        raise ValueError(f"{what} must be a list, not {type(value).__name__}")
    return value
