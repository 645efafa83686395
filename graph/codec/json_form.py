"""Graphs as JSON files: the proto3 JSON mapping of `weft.v1.Graph` with the names of its fields as they are.

JSON may stand where the mapping wants JSON text: ``"value": [1, 2]`` for ``"value": "[1, 2]"``. Only a string
is always taken as the text: ``"value": "\\"word\\""``.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any, Final

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass

from weft.proto import graph_pb2 as pb

from ..errors import GraphError
from ..ir import Graph
from .graphs import OPERATIONS, decode_graph, encode_graph
from .records import TOP, Place, listed

__all__ = ["MAX_CHARACTERS", "from_json", "to_json"]

MAX_CHARACTERS: Final = 16 * 2**20
"""The length beyond which a JSON text is refused unread, unless the caller says otherwise."""

_JSON_TEXT: Final = frozenset(
    {
        "weft.v1.Type.data",
        "weft.v1.Constraint.json_schema",
        "weft.v1.Const.value",
        "weft.v1.Input.default",
        "weft.v1.Project.default",
    }
)
"""String fields that hold JSON."""

_POSITIVE: Final = frozenset({"weft.v1.Sampling.max_tokens", "weft.v1.Policy.attempts", "weft.v1.Generate.n"})
"""Integer fields of which the proto takes 0, as it is when nothing is said, for the default."""

_ARGS: Final = pb.Node.DESCRIPTOR.fields_by_name["args"].message_type

_BODIES: Final = {
    op.name: [field.name for field in op.message_type.fields if field.message_type is pb.Graph.DESCRIPTOR]
    for op in pb.Node.DESCRIPTOR.oneofs_by_name["op"].fields
    if op.message_type is not None
}
"""The fields of each operation that hold graphs."""

_SCALARS: Final = {
    FieldDescriptor.CPPTYPE_STRING: "a string",
    FieldDescriptor.CPPTYPE_BOOL: "true or false",
    FieldDescriptor.CPPTYPE_DOUBLE: "a finite number",
    FieldDescriptor.CPPTYPE_UINT32: "an integer of 0 to 4294967295",
    FieldDescriptor.CPPTYPE_INT32: "an integer of 32 bits",
    FieldDescriptor.CPPTYPE_INT64: "an integer of 64 bits",
}
"""How errors name what a scalar field may be."""


def to_json(graph: Graph) -> str:
    """The graph as indented JSON text. Raises GraphError where it has no wire form."""
    tree = json_format.MessageToDict(encode_graph(graph), preserving_proto_field_name=True)
    return json.dumps(_with_zeros(tree), indent=2, ensure_ascii=False)


def from_json(text: str, *, max_characters: int = MAX_CHARACTERS) -> Graph:
    """The graph that the JSON text says.

    Raises GraphError with line and column where the text is no JSON, with the path where it is no graph.
    """
    if len(text) > max_characters:
        raise GraphError(f"a graph of {len(text)} characters is too long; at most {max_characters} are read")
    try:
        tree = _tidy(_load(text), pb.Graph.DESCRIPTOR, TOP)
        return decode_graph(json_format.ParseDict(tree, pb.Graph()))
    except json_format.ParseError as problem:
        raise GraphError(str(problem)) from None
    except RecursionError:
        raise GraphError("the JSON text is nested too deeply for a graph") from None


def _with_zeros(graph: dict[str, Any]) -> dict[str, Any]:
    """The graph with node ids of zero written out, which the mapping leaves out."""
    for node in graph.get("nodes", ()):
        node["args"] = {name: {"node": 0, **value} for name, value in node.get("args", {}).items()}
        for label in node.keys() & _BODIES.keys():
            for body in _BODIES[label]:
                node[label][body] = _with_zeros(node[label][body])
    nodes = [{"id": 0, **node} for node in graph.get("nodes", ())]
    outputs = [{"node": 0, **value} for value in graph.get("outputs", ())]
    return {**graph, "nodes": nodes, "outputs": outputs}


def _load(text: str) -> Any:
    try:
        tree = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
    except json.JSONDecodeError as problem:
        raise GraphError(f"line {problem.lineno} column {problem.colno}: {problem.msg}") from None
    except ValueError as problem:
        raise GraphError(f"the text is not JSON: {problem}") from None
    if not isinstance(tree, dict):
        raise GraphError(f"a graph must be a JSON object, not {_shown(tree)}")
    return tree


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} stands twice in one object")
        found[key] = value
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


@cache
def _fields(kind: Descriptor) -> dict[str, FieldDescriptor]:
    """The fields of a message by both of their names."""
    return {name: field for field in kind.fields for name in (field.name, field.json_name)}


def _tidy(value: Any, kind: Descriptor, place: Place) -> Any:
    """The object with JSON texts where the mapping wants them. Refuses keys that are no fields."""
    if not isinstance(value, dict):
        raise place.error(f"must be an object, not {_shown(value)}")
    known = _fields(kind)
    tidied: dict[str, Any] = {}
    members: dict[str, str] = {}
    for key, inner in value.items():
        if key not in known:
            raise place.error(_unknown(key, kind))
        oneof = known[key].containing_oneof
        if oneof is not None and members.setdefault(oneof.name, key) != key:
            raise place.error(f"{members[oneof.name]!r} and {key!r} exclude each other")
        tidied[key] = _tidy_field(inner, known[key], place.field(key))
    return tidied


def _tidy_field(value: Any, field: FieldDescriptor, place: Place) -> Any:
    if value is None:
        return None
    if field.full_name in _JSON_TEXT and not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if field.message_type is _ARGS:
        return _tidy_args(value, place)
    if not field.is_repeated:
        return _tidy_item(value, field, place)
    if not isinstance(value, list):
        raise place.error(f"must be a list, not {_shown(value)}")
    return [_tidy_item(inner, field, place.item(index)) for index, inner in enumerate(value)]


def _tidy_item(value: Any, field: FieldDescriptor, place: Place) -> Any:
    if field.message_type is not None:
        return _tidy(value, field.message_type, place)
    if not _plainly_fits(value, field):
        _check_scalar(value, field, place)
    if field.full_name in _POSITIVE and float(value) == 0:
        raise place.error(f"must be at least 1, or left out for the default, not {_shown(value)}")
    return value


def _plainly_fits(value: Any, field: FieldDescriptor) -> bool:
    """Whether the commonest values of the field's type need no closer look."""
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return isinstance(value, str)
    return type(value) is int and 0 <= value < 2**31 and field.cpp_type != FieldDescriptor.CPPTYPE_BOOL


def _check_scalar(value: Any, field: FieldDescriptor, place: Place) -> None:
    assert field.containing_type is not None  # weft.v1 has no extensions
    message = GetMessageClass(field.containing_type)()
    try:
        json_format.ParseDict({field.name: [value] if field.is_repeated else value}, message)
    except (json_format.ParseError, OverflowError):
        raise place.error(f"must be {_SCALARS[field.cpp_type]}, not {_shown(value)}") from None


def _tidy_args(value: Any, place: Place) -> Any:
    if not isinstance(value, dict):
        raise place.error(f"must be an object from operands to values, not {_shown(value)}")
    return {name: _tidy(inner, pb.Value.DESCRIPTOR, place.field(name)) for name, inner in value.items()}


def _unknown(key: str, kind: Descriptor) -> str:
    if kind is pb.Node.DESCRIPTOR:
        others = listed(field.name for field in kind.fields if field.containing_oneof is None)
        return f"unknown operation {key!r}; known: {listed(OPERATIONS)}; other fields of a node: {others}"
    return f"unknown field {key!r}; known: {listed(field.name for field in kind.fields)}"


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:40] + "…"
