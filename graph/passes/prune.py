"""Remove nodes whose results nobody takes.

    %1 = embed(%0)          ->   (gone)
    %2 = format(%0)              %2 = format(%0)
    return %2                    return %2

Nodes with effects stay. Inputs stay too: callers give them by name. Teola's Pass 1 also removes edges that
carry no data; a graph in static single assignment form has none, but for the order behind an effect, which
is a value.
"""

from __future__ import annotations

from ..ir import Graph, Node
from ..ops.common import Input
from .base import Context, Note, Rewrite

__all__ = ["Prune"]


class Prune:
    """Dead-node elimination (Helium section 4.1 prunes plans alike)."""

    name = "prune"

    def fork(self, context: Context) -> Prune:
        """Itself: it remembers nothing."""
        return self

    def __call__(self, graph: Graph) -> Rewrite:
        """Drop every node from which no output and no effect can be reached."""
        changes: list[Note] = []
        live = {value.node for value in graph.outputs}
        kept: list[Node] = []
        for node in reversed(graph.nodes):
            if node.id in live or node.op.effectful or isinstance(node.op, Input):
                live.update(value.node for value in node.args.values())
                kept.append(node)
            else:
                changes.append(Note.of(node, f"removed {node.op.label()}: nobody takes its result"))
        changes.reverse()
        pruned = graph.with_nodes(reversed(kept)) if changes else graph
        removed = len(graph.nodes) - len(kept)
        return Rewrite(pruned, {}, f"removed {removed} of {len(graph.nodes)} nodes", tuple(changes))
