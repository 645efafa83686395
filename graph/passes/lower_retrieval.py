"""Lowering of retrieval: embedding becomes a node of its own; reranking without a cross-encoder, rating."""

from __future__ import annotations

from typing import Final

from ..ir import Node, Value
from ..ops.common import Embed, Search
from ..ops.primitive import Chunk, Rate, Upsert
from ..ops.user import Ingest
from ..prompt import Message, Piece, Slot
from .base import Builder

__all__ = ["RATING", "lower_ingest", "lower_rerank", "lower_search"]

_RELEVANCE: Final = (
    "Rate how relevant the passage is to the question, from 0 (unrelated) to 3 (contains the answer). "
    "Reply with one number."
)
RATING: Final = (
    Message("system", (_RELEVANCE,)),
    Message("user", ("Passage: ", Slot("passage"), "\nQuestion: ", Slot("query"))),
)
"""What a model is asked of each passage."""
_LEVELS: Final = ("0", "1", "2", "3")


def lower_ingest(node: Node, op: Ingest, builder: Builder) -> None:
    """`ingest` -> chunk, embed, upsert."""
    args = builder.renamed(node)
    order = {"after": args["after"]} if "after" in args else {}
    chunks = builder.add(Chunk(op.index, op.chunking), {"documents": args["documents"], **order}, node)
    vectors = builder.add(Embed(), {"texts": Value(chunks.node, 1)}, node, name="")
    stored = builder.add(Upsert(op.index), {"chunks": chunks, "vectors": vectors, **order}, node)
    for output in (0, 1):
        builder.replace(Value(node.id, output), Value(stored.node, output))


def lower_search(node: Node, op: Search, builder: Builder) -> None:
    """`search` -> embed, search."""
    args = builder.renamed(node)
    vectors = builder.add(Embed(), {"texts": args["query"]}, node, name="")
    found = builder.add(op, {**args, "vectors": vectors}, node)
    builder.replace(Value(node.id), found)


def lower_rerank(node: Node, model: str, pieces: tuple[Piece, ...], builder: Builder) -> None:
    """`rerank` -> rate, by a model that reads `pieces`."""
    rate = Rate(model, pieces, _LEVELS, tuple(map(float, _LEVELS)))
    builder.replace(Value(node.id), builder.add(rate, builder.renamed(node), node))
