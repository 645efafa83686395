"""The seeds of what samples in a graph, bodies included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from .ir import Graph
from .ops.base import Op
from .ops.control import Cond, Fold, Loop, Map
from .ops.user import Generate
from .sampling import Sampling

__all__ = ["resampled"]

Resample = Callable[[Generate], Sampling]


def resampled(graph: Graph, sampling: Resample) -> Graph:
    """The graph with every `Generate` sampling as it is told; itself if none does otherwise than before."""
    nodes = [(node, _resampled_op(node.op, sampling)) for node in graph]
    if all(op is node.op for node, op in nodes):
        return graph
    return graph.with_nodes(node if op is node.op else replace(node, op=op) for node, op in nodes)


def _resampled_op(op: Op, sampling: Resample) -> Op:
    """The same for an operation and its bodies."""
    match op:
        case Generate():
            drawn = sampling(op)
            return op if drawn is op.sampling else replace(op, sampling=drawn)
        case Map(body=body) | Loop(body=body) | Fold(body=body):
            told = resampled(body, sampling)
            return op if told is body else replace(op, body=told)
        case Cond(then=then, otherwise=otherwise):
            branches = resampled(then, sampling), resampled(otherwise, sampling)
            if branches[0] is then and branches[1] is otherwise:
                return op
            return replace(op, then=branches[0], otherwise=branches[1])
        case _:
            return op
