"""What must hold of a graph beyond the types of its operands, which construction checks."""

from __future__ import annotations

from .errors import GraphError
from .ir import Graph, Node
from .ops.common import Input
from .types import Effect, Kv

__all__ = ["verify"]


def verify(graph: Graph) -> None:
    """Check ids, order, operands, types, inputs, effects and outputs. Raises GraphError.

    Construction makes all but the last three true already; they are checked again for graphs after a pass.
    """
    types = Graph(graph.nodes, graph.outputs, graph.name, graph.outside).types
    _unique_inputs(graph)
    for node in graph:
        _own_effect(graph, node)
    for value in graph.outputs:
        if isinstance(types[value], (Kv, Effect)):
            raise GraphError(f"graph {graph.name!r} returns {value}; a {types[value]} cannot leave a run")


def _unique_inputs(graph: Graph) -> None:
    seen: set[str] = set()
    for node in graph:
        if isinstance(node.op, Input):
            if node.op.name in seen:
                raise GraphError(f"{node.where()}: another input has the name {node.op.name!r} too")
            seen.add(node.op.name)


def _own_effect(graph: Graph, node: Node) -> None:
    after = node.args.get("after")
    if after is None:
        return
    kind, index = graph.types[after], getattr(node.op, "index", None)
    if isinstance(kind, Effect) and index is not None and kind.resource != index:
        raise GraphError(f"{node.where()}: is ordered after an effect on {kind.resource!r}, not on {index!r}")
