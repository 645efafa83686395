"""Compute equal things once (value numbering), and what prompts begin with alike (their common prefix).

    %1 = prefill("Be brief. Q: ", %0)      %1 = prefill("Be brief. Q: ")
    %2 = decode(%1)                        %2 = prefill(%1, %0)
    %3 = prefill("Be brief. Q: ", %0)  ->  %3 = decode(%2)
    %4 = decode(%3)                        (gone; %3 stands for it)
    %5 = prefill("Be brief. Q: ", %9)      %5 = prefill(%1, %9)

Because a KV context is a value, sharing a prefix is common-subexpression elimination. Only deterministic
nodes without effects merge: a sampled decode never does.
"""

from __future__ import annotations

from ..ir import Graph, Node, Policy, Value, infer
from ..ops.base import Op
from ..ops.common import Input
from .base import Builder, Context, Rewrite
from .shared_prefix import SharedPrefixes

__all__ = ["Dedupe"]

_Key = tuple[Op, frozenset[tuple[str, Value]], Policy]


class Dedupe:
    """Global value numbering over all increments of a run."""

    name = "dedupe"

    def __init__(self, context: Context) -> None:
        self._context = context
        self._numbers: dict[_Key, int] = {}
        self._prefixes = SharedPrefixes(context)

    def fork(self, context: Context) -> Dedupe:
        """The same numbers in another run."""
        other = Dedupe(context)
        other._numbers = dict(self._numbers)
        other._prefixes = self._prefixes.fork(context)
        return other

    def __call__(self, graph: Graph) -> Rewrite:
        """Replace each node that equals an earlier one; let prompts continue what they begin with alike."""
        merged = self._merge(graph)
        split = self._prefixes(merged.graph)
        if not split.changes:
            return merged
        # Heads that were cut off alike are equal only now.
        again = self._merge(split.graph)
        summary = f"{merged.summary}; {split.summary}"
        changes = (*merged.changes, *split.changes, *again.changes)
        return Rewrite(again.graph, {**merged.aliases, **again.aliases}, summary, changes, split.refusals)

    def _merge(self, graph: Graph) -> Rewrite:
        builder = self._context.builder(graph)
        for node in graph:
            earlier = self._earlier(node, builder)
            if earlier is None:
                builder.keep(node)
                continue
            builder.changed(node, f"{node.op.label()} is computed once, as %{earlier}")
            for output in range(len(infer(node, graph.types))):
                builder.replace(Value(node.id, output), Value(earlier, output))
        return builder.rewrite(f"merged {len(builder.changes)} of {len(graph.nodes)} nodes")

    def _earlier(self, node: Node, builder: Builder) -> int | None:
        """The node that computes the same, if it is not this one."""
        if not _mergeable(node):
            return None
        args = builder.renamed(node) if builder.aliases else node.args
        key = (node.op, frozenset(args.items()), node.policy)
        earlier = self._numbers.get(key)
        if earlier is None or Value(earlier) not in builder.types:  # a later pass may have removed it
            self._numbers[key] = node.id
            return None
        return None if earlier == node.id else earlier


def _mergeable(node: Node) -> bool:
    op = node.op
    return op.deterministic and not op.effectful and op.kind != "control" and not isinstance(op, Input)
