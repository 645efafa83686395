"""Graphs, nodes and values."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from weft.proto import graph_pb2 as pb

from ..errors import GraphError
from ..ir import NO_POLICY, Graph, Node, Policy, Value
from ..ops import common, control, optimized, primitive, user
from ..ops.base import Op
from ..types import Type
from .parts import decode_type, encode_type
from .records import TOP, Place, Wire, listed, register, wire_of

__all__ = [
    "OPERATIONS",
    "VERSION",
    "decode_graph",
    "decode_node",
    "decode_value",
    "encode_graph",
    "encode_node",
    "encode_value",
    "node_bytes",
]

VERSION: Final = 1
"""The version of the format that this code writes and reads."""

_MAX_DEPTH: Final = 16  # bodies inside bodies
_REMEMBERED: Final = 2048  # encoded nodes
_SMALL: Final = 4096  # bytes of a node; larger ones are rare

_MODULES: Final = (common, user, control, primitive, optimized)

OPERATIONS: Final[dict[str, type[Op]]] = {
    kind.label(): kind
    for module in _MODULES
    for kind in (getattr(module, name) for name in module.__all__)
    if isinstance(kind, type) and issubclass(kind, Op)
}
"""Every operation by the name under which a node carries it."""


_encoded: OrderedDict[int, tuple[Node, bytes]] = OrderedDict()
"""The messages of nodes by their identity; a compiled program gives every run the same objects."""


def encode_value(value: Value) -> pb.Value:
    """The value's name as a message."""
    return pb.Value(node=value.node, output=value.output)


def decode_value(message: pb.Value) -> Value:
    """The value that the message names."""
    return Value(message.node, message.output)


def encode_node(node: Node) -> pb.Node:
    """The node as a message. Raises GraphError where an attribute has no wire form (too large a number)."""
    try:
        message = pb.Node(id=node.id, name=node.name, location=node.location)
        for name, value in node.args.items():
            message.args[name].CopyFrom(encode_value(value))
        getattr(message, node.op.label()).CopyFrom(wire_of(type(node.op)).encode(node.op))
        if node.policy != NO_POLICY:
            message.policy.CopyFrom(wire_of(Policy).encode(node.policy))
    except GraphError as problem:
        raise GraphError(f"{node.where()}: {problem}") from None
    except ValueError as problem:
        raise GraphError(f"{node.where()} cannot be encoded: {problem}") from None
    return message


def node_bytes(node: Node) -> bytes:
    """The node's message in bytes, which is remembered for objects seen lately. Raises GraphError."""
    known = _encoded.get(id(node))
    if known is not None and known[0] is node:
        _encoded.move_to_end(id(node))
        return known[1]
    data = encode_node(node).SerializeToString(deterministic=True)
    if len(data) <= _SMALL:
        _encoded[id(node)] = (node, data)
        if len(_encoded) > _REMEMBERED:
            _encoded.popitem(last=False)
    return data


def decode_node(message: pb.Node, place: Place = TOP) -> Node:
    """The node that the message says; the types of its operands are not checked.

    Raises GraphError that names the node, the operation and the field.
    """
    here = place.within(_where(message))
    label = message.WhichOneof("op")
    if label is None:
        raise here.error(f"has no operation; give it one of {listed(OPERATIONS)}")
    op = wire_of(OPERATIONS[label]).decode(getattr(message, label), here)
    args = {name: decode_value(message.args[name]) for name in sorted(message.args)}
    policy = NO_POLICY
    if message.HasField("policy"):
        policy = wire_of(Policy).decode(message.policy, here.field("policy"))
    return Node(message.id, op, args, message.name, message.location, policy)


def encode_graph(graph: Graph) -> pb.Graph:
    """The graph as a message. Raises GraphError where it has no wire form."""
    return pb.Graph(
        version=VERSION,
        name=graph.name,
        nodes=[encode_node(node) for node in graph.nodes],
        outputs=[encode_value(value) for value in graph.outputs],
        outside=[
            pb.Outside(value=encode_value(value), type=encode_type(kind))
            for value, kind in graph.outside.items()
        ],
    )


def decode_graph(message: pb.Graph, place: Place = TOP) -> Graph:
    """The graph that the message says.

    Raises GraphError that names the node, the operation and the field, and says what would be right.
    """
    if place.depth > _MAX_DEPTH:
        raise place.error(f"bodies are nested more than {_MAX_DEPTH} levels deep")
    _check_version(message.version, place)
    nodes = tuple(decode_node(node, place) for node in message.nodes)
    outputs = tuple(decode_value(value) for value in message.outputs)
    outside = _decode_outside(message, place)
    try:
        return Graph(nodes, outputs, message.name, outside)
    except GraphError as problem:
        prefix = place.within("").node
        raise type(problem)(f"{prefix}: {problem}" if prefix else str(problem)) from None


def _where(message: pb.Node) -> str:
    label = message.WhichOneof("op") or "node"
    name = f" {message.name!r}" if message.name else ""
    location = f" ({message.location})" if message.location else ""
    return f"%{message.id} {label}{name}{location}"


def _check_version(version: int, place: Place) -> None:
    if version == 0 and place.depth == 0:
        raise place.error(f'the graph does not say its format; write "version": {VERSION}')
    if version not in (0, VERSION):
        raise place.error(f"unknown version {version} of the format; this weft reads version {VERSION}")


def _decode_outside(message: pb.Graph, place: Place) -> dict[Value, Type]:
    outside: dict[Value, Type] = {}
    for index, entry in enumerate(message.outside):
        here, value = place.field("outside").item(index), decode_value(entry.value)
        if value in outside:
            raise here.error(f"{value} stands there already")
        outside[value] = decode_type(entry.type, here.field("type"))
    return outside


def _decode_body(message: pb.Graph, place: Place) -> Graph:
    return decode_graph(message, place.deeper())


register(Graph, Wire(encode_graph, _decode_body))
