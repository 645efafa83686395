"""Remove nodes whose results nobody takes.

    %1 = embed(%0)          ->   (gone)
    %2 = format(%0)              %2 = format(%0)
    return %2                    return %2

Nodes with effects stay. Inputs stay too: callers give them by name.
"""

from __future__ import annotations

from ..ir import Graph
from ..ops.common import Input
from .base import Rewrite

__all__ = ["Prune"]


class Prune:
    """Dead-node elimination (Helium section 4.1 prunes plans alike)."""

    name = "prune"

    def __call__(self, graph: Graph) -> Rewrite:
        """Drop every node from which no output and no effect can be reached."""
        live = {value.node for value in graph.outputs}
        kept = []
        for node in reversed(graph.nodes):
            if node.id in live or node.op.effectful or isinstance(node.op, Input):
                live.update(value.node for value in node.args.values())
                kept.append(node)
        removed = len(graph.nodes) - len(kept)
        pruned = graph.with_nodes(reversed(kept)) if removed else graph
        return Rewrite(pruned, {}, f"removed {removed} of {len(graph.nodes)} nodes")
