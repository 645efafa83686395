"""Nodes as the scheduler sees them: all that can be said of a node before it runs, worked out once a plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache
from typing import Final, NamedTuple

from weft.graph.analyses.forecast import UNKNOWN, Forecast
from weft.graph.ir import Node, Value
from weft.graph.ops.base import Op
from weft.graph.ops.common import Embed, Input, Interrupt, Tool
from weft.graph.ops.primitive import Decode, Prefill, Rate, Score, Weigh
from weft.graph.prompt import Fixed

from .prefixes import Content, FixedContent, blocks_of

__all__ = ["EngineKey", "Primitive", "Role", "beginning", "describe", "engine_of"]


class EngineKey(NamedTuple):
    """What a primitive needs of a worker. An empty model is any."""

    kind: str
    model: str

    def __str__(self) -> str:
        return f"{self.kind} {self.model!r}" if self.model else self.kind


class Role(Enum):
    """Who computes a node."""

    INPUT = auto()  # nobody: it is known from outside
    HOST = auto()  # the orchestrator
    CONTROL = auto()  # nobody: it turns into other nodes
    CLIENT = auto()  # a tool in the client's process, or a person
    ENGINE = auto()  # an engine of a worker


def engine_of(op: Op) -> EngineKey:
    """The engine that runs the operation."""
    match op:
        case Prefill() | Decode() | Score() | Weigh() | Rate() | Embed():
            return _key(op.kind, op.model)
        case Tool(tool=tool):
            return _key(op.kind, tool)
        case _:
            return _key(op.kind, "")


@lru_cache(4096)
def _key(kind: str, model: str) -> EngineKey:
    """The one key that all primitives of a kind share: so it stays in the processor's caches."""
    return EngineKey(kind, model)


@dataclass(frozen=True, slots=True)
class Primitive:
    """A node, and what the scheduler reckons with."""

    node: Node
    role: Role
    key: EngineKey
    producers: tuple[int, ...]  # the nodes whose results it takes, each once
    context: int | None  # the node whose KV context it continues
    adds: tuple[Content | Value, ...]  # to the context, in order; what it writes is known when it is done
    makes_context: bool
    begins: int | None  # how its prompt does, if it continues no context: see `beginning`
    forecast: Forecast


def describe(nodes: Iterable[Node], forecasts: Mapping[int, Forecast] | None = None) -> tuple[Primitive, ...]:
    """The nodes as primitives; what is not forecast is unknown."""
    forecasts = forecasts or {}
    return tuple(_describe(node, forecasts.get(node.id, UNKNOWN)) for node in nodes)


def _describe(node: Node, forecast: Forecast) -> Primitive:
    op = node.op
    context = node.args.get("kv") if op.kind == "llm" else None
    adds = _adds(node)
    return Primitive(
        node=node,
        role=_role(op),
        key=engine_of(op),
        producers=tuple({value.node: None for value in node.args.values()}),
        context=None if context is None else context.node,
        adds=adds,
        makes_context=isinstance(op, (Prefill, Decode)),
        begins=beginning(adds) if isinstance(op, Prefill) and context is None else None,
        forecast=forecast,
    )


_ROLES: Final = {"host": Role.HOST, "control": Role.CONTROL}


def _role(op: Op) -> Role:
    if isinstance(op, Input):
        return Role.INPUT
    if isinstance(op, Interrupt) or (isinstance(op, Tool) and op.where == "client"):
        return Role.CLIENT
    return _ROLES.get(op.kind, Role.ENGINE)


def _adds(node: Node) -> tuple[Content | Value, ...]:
    match node.op:
        case Prefill(pieces=pieces):
            return tuple(
                FixedContent(blocks_of(p.text)) if isinstance(p, Fixed) else node.args[p.name] for p in pieces
            )
        case Decode():
            return (Value(node.id, 1),)
        case _:
            return ()


def beginning(adds: Sequence[Content | Value]) -> int:
    """Of a prompt that adds these to nothing: equal if two are equal up to the first value.

    Those who begin alike have more in common than text.
    """
    values = (place for place, part in enumerate(adds) if isinstance(part, Value))
    return hash(tuple(adds[: next(values, len(adds)) + 1]))
