"""The graph: nodes in static single assignment form, immutable, in topological order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

from .errors import GraphError, OperandError
from .ops.base import Op
from .types import Type

__all__ = ["NO_POLICY", "Environment", "Graph", "Node", "Policy", "Value", "infer"]


class Value(NamedTuple):
    """Result number `output` of node `node`."""

    node: int
    output: int = 0

    def __str__(self) -> str:
        return f"%{self.node}" if self.output == 0 else f"%{self.node}.{self.output}"


@dataclass(frozen=True, slots=True)
class Policy:
    """What to do when a node is slow or fails. It does not belong to the value that the node computes."""

    timeout_s: float | None = None  # of one attempt; None: as long as the run's deadline allows
    attempts: int = 1
    backoff_s: float = 0.5  # before the second attempt; doubled before each further one

    def __post_init__(self) -> None:
        if self.timeout_s is not None and not self.timeout_s > 0:
            raise ValueError(f"a timeout must be positive, not {self.timeout_s} s")
        if self.attempts < 1:
            raise ValueError(f"attempts must be at least 1, not {self.attempts}")
        if not self.backoff_s >= 0:
            raise ValueError(f"a back-off must not be negative, not {self.backoff_s} s")


NO_POLICY = Policy()


@dataclass(frozen=True, slots=True)
class Node:
    """One operation applied to operands."""

    id: int
    op: Op
    args: Mapping[str, Value] = field(default_factory=dict)
    name: str = ""
    location: str = ""  # file:line of the user's code that made it
    policy: Policy = NO_POLICY
    origin: int = field(default=-1, compare=False, repr=False)
    """What it was called in the graph or body as written; passes keep it. -1: it was in none."""

    def label(self) -> str:
        """How observers name this node: `%3 decode 'draft'`."""
        return f"%{self.id} {self.op.label()}" + (f" {self.name!r}" if self.name else "")

    def where(self) -> str:
        """How errors name this node: with the place in the user's code, if that is known."""
        return f"{self.label()} ({self.location})" if self.location else self.label()


Environment = Mapping[Value, Type]
"""The types of the values that a graph may take from outside itself."""


def infer(node: Node, types: Environment) -> tuple[Type, ...]:
    """The types of the node's results. Raises OperandError that names the node and its source line."""
    operands: dict[str, Type] = {}
    for name, value in node.args.items():
        if value not in types:
            raise GraphError(f"{node.where()}: operand {name!r} takes {value}, which nothing before it makes")
        operands[name] = types[value]
    try:
        return node.op.results(operands)
    except OperandError as problem:
        raise OperandError(f"{node.where()}: {problem}") from None


@dataclass(frozen=True)
class Graph:
    """Nodes in topological order, the values that leave the graph, and what it may take from outside.

    A whole program takes nothing from outside; an increment of a run takes values of earlier increments.
    Construction checks ids, order, operands and types, so every `Graph` that exists is well formed.
    """

    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]
    name: str = ""
    outside: Environment = field(default_factory=dict)

    def __post_init__(self) -> None:
        types = self.types
        for value in self.outputs:
            if value not in types:
                raise GraphError(f"graph {self.name!r} returns {value}, which no node makes")

    @classmethod
    def inferred(
        cls,
        nodes: tuple[Node, ...],
        outputs: tuple[Value, ...],
        name: str,
        outside: Environment,
        types: Environment,
    ) -> Graph:
        """A graph whose types were inferred while it was built, node by node; they are not inferred again."""
        graph = cls.__new__(cls)
        graph.__dict__.update(nodes=nodes, outputs=outputs, name=name, outside=outside, types=types)
        return graph

    @cached_property
    def types(self) -> Environment:
        """The type of every value of the graph and of its outside. Raises GraphError."""
        types: dict[Value, Type] = dict(self.outside)
        seen = {value.node for value in self.outside}
        for node in self.nodes:
            if node.id < 0:
                raise GraphError(f"{node.where()}: a node's id must not be negative")
            if node.id in seen:
                raise GraphError(f"{node.where()}: another node has the id {node.id} too")
            seen.add(node.id)
            for output, kind in enumerate(infer(node, types)):
                types[Value(node.id, output)] = kind
        return types

    @cached_property
    def by_id(self) -> Mapping[int, Node]:
        """The nodes by their ids."""
        return {node.id: node for node in self.nodes}

    @cached_property
    def results(self) -> Mapping[int, Mapping[Value, Type]]:
        """The types of what each node gives, by its id."""
        found: dict[int, dict[Value, Type]] = {node.id: {} for node in self.nodes}
        for value, kind in self.types.items():
            if value.node in found:
                found[value.node][value] = kind
        return found

    @cached_property
    def users(self) -> Mapping[Value, tuple[Node, ...]]:
        """The nodes that take each value, each once, in order."""
        found: dict[Value, dict[int, Node]] = {}
        for node in self.nodes:
            for value in node.args.values():
                found.setdefault(value, {})[node.id] = node
        return {value: tuple(nodes.values()) for value, nodes in found.items()}

    def with_nodes(self, nodes: Iterable[Node]) -> Graph:
        """The same graph with other nodes."""
        return replace(self, nodes=tuple(nodes))

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __str__(self) -> str:
        from .draw import text

        return text(self)
