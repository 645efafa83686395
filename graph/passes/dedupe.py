"""Compute equal things once (value numbering).

    %1 = prefill("Q: ", %0)      %1 = prefill("Q: ", %0)
    %2 = prefill("Q: ", %0)  ->  (gone; %1 stands for it)
    %3 = decode(%2)              %3 = decode(%1)

Because a KV context is a value, this is also how two prompts come to share what they have in common. Only
deterministic nodes without effects merge: a sampled decode never does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..ir import Graph, Node, Policy, Value, infer
from ..ops.base import Op
from ..ops.common import Input
from ..types import Type
from .base import Builder, Rewrite

__all__ = ["Dedupe"]

_Key = tuple[Op, frozenset[tuple[str, Value]], Policy]


class Dedupe:
    """Global value numbering over all increments of a run."""

    name = "dedupe"

    def __init__(self, types: Mapping[Value, Type], new_id: Callable[[], int]) -> None:
        self._types = types  # of everything earlier increments made
        self._new_id = new_id
        self._numbers: dict[_Key, int] = {}

    def __call__(self, graph: Graph) -> Rewrite:
        """Replace each node that equals an earlier one."""
        builder = Builder(dict(self._types), self._new_id)
        merged = 0
        for node in graph:
            if not _mergeable(node):
                builder.keep(node)
                continue
            key = (node.op, frozenset(builder.renamed(node).items()), node.policy)
            earlier = self._numbers.setdefault(key, node.id)
            if earlier == node.id:
                builder.keep(node)
                continue
            merged += 1
            for output in range(len(infer(node, graph.types))):
                builder.replace(Value(node.id, output), Value(earlier, output))
        return Rewrite(builder.graph(graph), builder.aliases, f"merged {merged} of {len(graph.nodes)} nodes")


def _mergeable(node: Node) -> bool:
    op = node.op
    return op.deterministic and not op.effectful and op.kind != "control" and not isinstance(op, Input)
