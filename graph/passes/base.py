"""What a pass is: a rewrite of a graph that preserves its outputs."""

from __future__ import annotations

import operator
from collections import ChainMap
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from typing import Protocol, Self

from ..deployment import Deployment
from ..estimate import Estimator
from ..ir import Graph, Node, Value, infer
from ..ops.base import Op
from ..types import Type

__all__ = ["Builder", "Context", "Note", "Pass", "PassReport", "Rewrite", "follow"]


@dataclass(frozen=True, slots=True)
class Note:
    """What a pass did to a node, or why it left it alone: the rule that says so."""

    node: int
    text: str
    rule: str = ""
    location: str = ""  # file:line of the user's code

    @classmethod
    def of(cls, node: Node, text: str, rule: str = "") -> Self:
        """A note on a node."""
        return cls(node.id, text, rule, node.location)


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A graph after a pass, and the values that now stand for values that are gone."""

    graph: Graph
    aliases: Mapping[Value, Value]
    summary: str
    changes: tuple[Note, ...] = ()
    refusals: tuple[Note, ...] = ()


@dataclass(frozen=True, slots=True)
class PassReport:
    """What one pass did, for people."""

    name: str
    summary: str
    graph: Graph
    changes: tuple[Note, ...] = ()
    refusals: tuple[Note, ...] = ()
    milliseconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Context:
    """What the passes of one run know besides the increment before them; its owner keeps it up to date."""

    deployment: Deployment
    estimator: Estimator
    types: dict[Value, Type]
    """Of every value that earlier increments made."""
    aliases: Mapping[Value, Value]
    """What stands for values that passes replaced in earlier increments."""
    nodes: Mapping[int, Node]
    """Of earlier increments, as the passes left them."""
    known: Container[Value]
    """The values that the run has already."""
    new_id: Callable[[], int]

    def builder(self, source: Graph) -> Builder:
        """A builder that rewrites `source`; its nodes may take what earlier increments made."""
        return Builder(source, ChainMap({}, self.types), self.new_id)


class Pass(Protocol):
    """A pass of one run: it may remember what earlier increments held."""

    name: str

    def __call__(self, graph: Graph) -> Rewrite:
        """Rewrite an increment. Raises GraphError."""
        ...

    def fork(self, context: Context) -> Pass:
        """The same pass with the same memory, for another run of the same program."""
        ...


def follow(aliases: Mapping[Value, Value], value: Value) -> Value:
    """The value that now stands for `value`."""
    while value in aliases:
        value = aliases[value]
    return value


@dataclass
class Builder:
    """Builds the nodes of a rewritten graph in order, keeping track of types and of values replaced."""

    source: Graph
    types: ChainMap[Value, Type]  # of every value that the new nodes may take; grows
    new_id: Callable[[], int]
    nodes: list[Node] = field(default_factory=list)
    aliases: dict[Value, Value] = field(default_factory=dict)
    changes: list[Note] = field(default_factory=list)
    refusals: list[Note] = field(default_factory=list)

    def keep(self, node: Node) -> None:
        """Take over a node with its operands renamed."""
        if self.aliases and any(value in self.aliases for value in node.args.values()):
            args = self.renamed(node)
            self._add(Node(node.id, node.op, args, node.name, node.location, node.policy, node.origin))
        elif self.source.by_id.get(node.id) is node:
            self._take_over(node)
        else:
            self._add(node)

    def add(self, op: Op, args: Mapping[str, Value], like: Node, *, name: str | None = None) -> Value:
        """Make a new node on behalf of `like`; its first result."""
        label = like.name if name is None else name
        node = Node(self.new_id(), op, dict(args), label, like.location, like.policy, like.origin)
        self._add(node)
        return Value(node.id)

    def renamed(self, node: Node) -> dict[str, Value]:
        """The operands of a node as they are called now."""
        return {name: follow(self.aliases, value) for name, value in node.args.items()}

    def replace(self, old: Value, new: Value) -> None:
        """Let `new` stand for `old`."""
        self.aliases[old] = new

    def changed(self, node: Node, text: str, rule: str = "") -> None:
        """Note what was done to a node."""
        self.changes.append(Note.of(node, text, rule))

    def refused(self, node: Node, text: str, rule: str) -> None:
        """Note why a node was left alone."""
        self.refusals.append(Note.of(node, text, rule))

    def rewrite(self, summary: str) -> Rewrite:
        """What the pass made of the source; the source itself if nothing has changed."""
        old = self.source.nodes
        unchanged = len(self.nodes) == len(old) and all(map(operator.is_, self.nodes, old))
        graph = self.source if unchanged else self._graph()
        return Rewrite(graph, self.aliases, summary, tuple(self.changes), tuple(self.refusals))

    def _graph(self) -> Graph:
        """The graph of the nodes so far, with the outputs of the source."""
        outputs = tuple(follow(self.aliases, value) for value in self.source.outputs)
        made = {node.id for node in self.nodes}
        taken = {value for node in self.nodes for value in node.args.values()} | set(outputs)
        outside = {value: self.types[value] for value in sorted(taken) if value.node not in made}
        types = {value: kind for value, kind in self.types.maps[0].items() if value.node in made} | outside
        return Graph.inferred(tuple(self.nodes), outputs, self.source.name, outside, types)

    def _take_over(self, node: Node) -> None:
        """Take over a node of the source that has not changed: its types are known."""
        self.types.maps[0].update(self.source.results[node.id])
        self.nodes.append(node)

    def _add(self, node: Node) -> None:
        for output, kind in enumerate(infer(node, self.types)):
            self.types[Value(node.id, output)] = kind
        self.nodes.append(node)
