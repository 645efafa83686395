"""How much of a graph lies behind each node."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..ir import Graph, Node

__all__ = ["critical_path", "depth", "remaining_ms"]


def depth(graph: Graph) -> dict[int, int]:
    """The nodes on the longest way from each node to where nobody takes its results: 0 there.

    Teola (section 5.2, Algorithm 2) batches the deepest first.
    """
    lengths = remaining_ms(graph, lambda _: 1.0)
    return {node: round(length) - 1 for node, length in lengths.items()}


def remaining_ms(
    graph: Graph, duration: Callable[[Node], float], after: Mapping[int, float] | None = None
) -> dict[int, float]:
    """The time of the longest way from the beginning of each node to the end of the graph.

    `after`: what follows on some nodes outside the graph.
    """
    behind: dict[int, float] = dict(after or {})  # the longest way that begins where a node ends
    lengths: dict[int, float] = {}
    for node in reversed(graph.nodes):
        lengths[node.id] = duration(node) + behind.get(node.id, 0.0)
        for value in node.args.values():
            behind[value.node] = max(behind.get(value.node, 0.0), lengths[node.id])
    return lengths


def critical_path(graph: Graph, duration: Callable[[Node], float]) -> tuple[int, ...]:
    """The nodes of the longest way through the graph, from the first to the last."""
    finish: dict[int, float] = {}
    before: dict[int, int | None] = {}
    for node in graph:
        makers = [value.node for value in node.args.values() if value.node in finish]
        before[node.id] = max(makers, key=finish.__getitem__, default=None)
        last = before[node.id]
        finish[node.id] = (0.0 if last is None else finish[last]) + duration(node)
    path: list[int] = []
    place: int | None = max(finish, key=finish.__getitem__, default=None)
    while place is not None:
        path.append(place)
        place = before[place]
    return tuple(reversed(path))
