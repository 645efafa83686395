"""When each node of a graph would run if no engine ever made it wait."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping

from .. import schema as json_schema
from ..ir import Graph, Node, Value
from ..ops.optimized import Element
from ..ops.primitive import Decode
from ..sampling import JsonSchema

__all__ = ["busy_ms", "finish_ms"]

Times = Mapping[int, tuple[float, float]]
"""Start and finish by node."""


def finish_ms(
    graph: Graph,
    duration: Callable[[Node], float],
    known: Container[Value] = (),
) -> dict[int, tuple[float, float]]:
    """Start and finish of each node in milliseconds after the run's begin, by its id.

    What the graph takes from outside is there at 0, and so is a value in `known`, whoever makes it. An
    element of a text counts as known when its share of the text has been written.
    """
    times: dict[int, tuple[float, float]] = {}
    for node in graph:
        start = 0.0
        for value in node.args.values():
            if value not in known and value.node in times:
                start = max(start, times[value.node][1])
        if isinstance(node.op, Element) and node.args["text"].node in times:
            start = _closes(node.op, graph.by_id[node.args["text"].node], times)
        times[node.id] = (start, start + duration(node))
    return times


def busy_ms(
    graph: Graph, node: int, competes: Callable[[Node], bool], times: Times, begin: float, end: float
) -> float:
    """How long between two times nodes that compete are at work, on the longest way to a node's result."""
    busy, until = 0.0, end
    while node in times and until > begin:
        start, finish = times[node]
        made = graph.by_id[node]
        if competes(made):
            busy += max(0.0, min(finish, until) - max(start, begin))
        until = min(until, start)
        before = [value.node for value in made.args.values() if value.node in times]
        if not before:
            break
        node = max(before, key=lambda number: times[number][1])
    return busy


def _closes(op: Element, decode: Node, times: Times) -> float:
    """When an element is written."""
    start, finish = times[decode.id]
    return start + (finish - start) * _share(op, decode)


def _share(op: Element, decode: Node) -> float:
    """The share of a text that is written when an element of it closes."""
    if not op.path:
        return 1.0
    first = op.path[0]
    if isinstance(first, int):
        return (first + 1) / (first + 2)
    names: tuple[str, ...] = ()
    if isinstance(decode.op, Decode) and isinstance(decode.op.constraint, JsonSchema):
        names = tuple(json_schema.fields(decode.op.constraint.schema) or ())
    return (names.index(first) + 1) / len(names) if first in names else 1.0
