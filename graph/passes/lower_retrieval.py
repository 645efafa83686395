"""Lowering of retrieval: embedding becomes a node of its own; reranking without a cross-encoder, a map."""

from __future__ import annotations

from typing import Final

from ..ir import Graph, Node, Value
from ..ops.common import Embed, Expected, Input, Project, Search, TopK
from ..ops.control import Map
from ..ops.primitive import Chunk, Upsert
from ..ops.user import Ingest, Select
from ..prompt import Message, Slot
from ..types import JSON, TEXT
from .base import Builder

__all__ = ["lower_ingest", "lower_rerank", "lower_search"]

RELEVANCE: Final = (
    "Rate how relevant the passage is to the question, from 0 (unrelated) to 3 (contains the answer). "
    "Reply with one number."
)
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


def lower_rerank(node: Node, builder: Builder) -> None:
    """`rerank` -> a map that lets the default model rate each passage, and top_k.

    The rating is the expected value of the level under the model's probabilities, which ranks finer than
    the likeliest level would.
    """
    args = builder.renamed(node)
    operands = {"items": args["passages"], "query": args["query"]}
    scores = builder.add(Map(_rating(node)), operands, node)
    best = builder.add(TopK(), {"passages": args["passages"], "scores": scores, "k": args["k"]}, node)
    builder.replace(Value(node.id), best)


def _rating(node: Node) -> Graph:
    prompt = (
        Message("system", (RELEVANCE,)),
        Message("user", ("Passage: ", Slot("text"), "\nQuestion: ", Slot("query"))),
    )

    def part(number: int, op: Input | Project | Select | Expected, **args: Value) -> Node:
        return Node(number, op, args, location=node.location, policy=node.policy)

    nodes = (
        part(0, Input(Map.ITEM, JSON)),
        part(1, Input("query", TEXT)),
        part(2, Project("text"), value=Value(0)),
        part(3, Select(prompt, _LEVELS, cache=True), text=Value(2), query=Value(1)),
        part(4, Expected(tuple(float(level) for level in _LEVELS)), scores=Value(3, 1)),
    )
    return Graph(nodes, (Value(4),), "relevance")
