"""What is done with each item of a list that is still being written, as bodies of a map."""

from __future__ import annotations

from ..ir import Graph, Node, Value
from ..ops.base import Op
from ..ops.common import Embed, Input, Search
from ..ops.control import Map
from ..types import INTEGER, JSON, TEXT

__all__ = ["embed_body", "search_body"]


def search_body(node: Node, op: Search, embed: Node | None) -> Graph:
    """A search for one query, embedded first if `embed` did that for all."""
    nodes = [_part(node, 0, Input(Map.ITEM, TEXT)), _part(node, 1, Input("k", INTEGER))]
    args = {"query": Value(0), "k": Value(1)}
    if embed is not None:
        nodes.append(_part(embed, 2, embed.op, texts=Value(0)))
        args["vectors"] = Value(2)
    if "where" in node.args:
        nodes.append(_part(node, 3, Input("where", JSON)))
        args["where"] = Value(3)
    nodes.append(_part(node, 4, op, **args))
    return Graph(tuple(nodes), (Value(4),), "search")


def embed_body(node: Node, op: Embed) -> Graph:
    """The embedding of one text."""
    nodes = (_part(node, 0, Input(Map.ITEM, TEXT)), _part(node, 1, op, texts=Value(0)))
    return Graph(nodes, (Value(1),), "embed")


def _part(like: Node, number: int, op: Op, **args: Value) -> Node:
    return Node(number, op, args, like.name, like.location, like.policy, like.origin)
