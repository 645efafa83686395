"""What a pass is: a rewrite of a graph that preserves its outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ..ir import Graph, Node, Value, infer
from ..ops.base import Op
from ..types import Type

__all__ = ["Builder", "Pass", "PassReport", "Rewrite", "follow"]


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A graph after a pass, and the values that now stand for values that are gone."""

    graph: Graph
    aliases: Mapping[Value, Value]
    summary: str


@dataclass(frozen=True, slots=True)
class PassReport:
    """What one pass did, for people."""

    name: str
    summary: str
    graph: Graph


class Pass(Protocol):
    """A pass of one run: it may remember what earlier increments held."""

    name: str

    def __call__(self, graph: Graph) -> Rewrite:
        """Rewrite an increment. Raises GraphError."""
        ...


def follow(aliases: Mapping[Value, Value], value: Value) -> Value:
    """The value that now stands for `value`."""
    while value in aliases:
        value = aliases[value]
    return value


@dataclass
class Builder:
    """Builds the nodes of a rewritten graph in order, keeping track of types and of values replaced."""

    types: dict[Value, Type]  # of every value that the new nodes may take; grows
    new_id: Callable[[], int]
    nodes: list[Node] = field(default_factory=list)
    aliases: dict[Value, Value] = field(default_factory=dict)

    def keep(self, node: Node) -> None:
        """Take over a node with its operands renamed."""
        self._add(Node(node.id, node.op, self.renamed(node), node.name, node.location, node.policy))

    def add(self, op: Op, args: Mapping[str, Value], like: Node, *, name: str | None = None) -> Value:
        """Make a new node on behalf of `like`; its first result."""
        label = like.name if name is None else name
        node = Node(self.new_id(), op, dict(args), label, like.location, like.policy)
        self._add(node)
        return Value(node.id)

    def renamed(self, node: Node) -> dict[str, Value]:
        """The operands of a node as they are called now."""
        return {name: follow(self.aliases, value) for name, value in node.args.items()}

    def replace(self, old: Value, new: Value) -> None:
        """Let `new` stand for `old`."""
        self.aliases[old] = new

    def graph(self, source: Graph) -> Graph:
        """The graph of the nodes so far, with the outputs of `source`."""
        outputs = tuple(follow(self.aliases, value) for value in source.outputs)
        made = {node.id for node in self.nodes}
        taken = {value for node in self.nodes for value in node.args.values()} | set(outputs)
        outside = {value: self.types[value] for value in sorted(taken) if value.node not in made}
        return Graph(tuple(self.nodes), outputs, source.name, outside)

    def _add(self, node: Node) -> None:
        for output, kind in enumerate(infer(node, self.types)):
            self.types[Value(node.id, output)] = kind
        self.nodes.append(node)
