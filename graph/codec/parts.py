"""What does not travel field by field: types, segments of prompts, constraints, keys of projections; text."""

from __future__ import annotations

from typing import Final

from weft.proto import graph_pb2 as pb

from .. import schema as json_schema
from ..ops.common import Project
from ..ops.optimized import Key
from ..prompt import Fixed, Part, Piece, Slot, Strip
from ..sampling import Choices, Constraint, JsonSchema, Regex
from ..types import TEXT, VECTORS, Data, Effect, Kv, Text, Type, Vectors
from .records import Place, Wire, listed, register, wire_of

__all__ = ["decode_type", "encode_type", "sendable"]

_EMPTY: Final = pb.Empty()
_TYPE: Final = Place(path="type")


def sendable(text: str) -> str:
    """A text that messages can hold, with escapes for halves of surrogate pairs, as in names of files."""
    return text.encode(errors="backslashreplace").decode()


def encode_type(kind: Type) -> pb.Type:
    """The type as a message."""
    match kind:
        case Text():
            return pb.Type(text=_EMPTY)
        case Data(schema):
            return pb.Type(data=schema)
        case Kv(model):
            return pb.Type(kv=model)
        case Vectors():
            return pb.Type(vectors=_EMPTY)
        case Effect(resource):
            return pb.Type(effect=resource)


def decode_type(message: pb.Type, place: Place = _TYPE) -> Type:
    """The type that the message says. Raises GraphError if it says none, or if its schema is none."""
    match message.WhichOneof("kind"):
        case "text":
            return TEXT
        case "data":
            return Data(_schema(message.data, place.field("data")))
        case "kv":
            return Kv(message.kv)
        case "vectors":
            return VECTORS
        case "effect":
            return Effect(message.effect)
        case _:
            raise place.error(f"a type must be one of {_members(pb.Type, 'kind')}")


def _schema(text: str, place: Place) -> str:
    try:
        return json_schema.canonical(json_schema.parse(text))
    except ValueError as problem:
        raise place.error(problem) from None


def _decode_data(message: pb.Type, place: Place) -> Data:
    kind = decode_type(message, place)
    if not isinstance(kind, Data):
        raise place.error(f"must be 'data', not {kind}")
    return kind


def _encode_part(part: Part | Piece) -> pb.Part:
    match part:
        case str():
            return pb.Part(text=part)
        case Fixed(text, trusted):
            return pb.Part(text=text, trusted=trusted)
        case Slot(name, strip):
            return pb.Part(slot=name, strip=strip)


def _decode_slot(message: pb.Part, place: Place) -> Slot | None:
    """The slot that the message is, or None if it is a text."""
    match message.WhichOneof("part"):
        case "slot" if message.trusted:
            raise place.error("'trusted' belongs to a text; the value of a slot is never trusted")
        case "slot":
            return Slot(message.slot, wire_of(Strip).decode(message.strip, place.field("strip")))
        case "text" if message.strip:
            raise place.error("'strip' belongs to a slot; write the text without the white space")
        case "text":
            return None
        case _:
            raise place.error(f"a segment must be one of {_members(pb.Part, 'part')}")


def _decode_part(message: pb.Part, place: Place) -> Part:
    slot = _decode_slot(message, place)
    if slot is None and message.trusted:
        raise place.error("'trusted' belongs to the pieces of a prefill; a message cannot vouch for itself")
    return message.text if slot is None else slot


def _decode_piece(message: pb.Part, place: Place) -> Piece:
    return _decode_slot(message, place) or Fixed(message.text, message.trusted)


def _encode_constraint(constraint: Constraint) -> pb.Constraint:
    match constraint:
        case JsonSchema(schema):
            return pb.Constraint(json_schema=schema)
        case Regex(pattern):
            return pb.Constraint(regex=pattern)
        case Choices(options):
            return pb.Constraint(choices=pb.Options(options=options))


def _decode_constraint(message: pb.Constraint, place: Place) -> Constraint:
    match message.WhichOneof("kind"):
        case "json_schema":
            _schema(message.json_schema, place.field("json_schema"))
            return JsonSchema(
                message.json_schema
            )  # as written: the order of its properties is that of the text
        case "regex":
            return Regex(message.regex)
        case "choices":
            return _choices(tuple(message.choices.options), place.field("choices"))
        case _:
            raise place.error(f"a constraint must be one of {_members(pb.Constraint, 'kind')}")


def _choices(options: tuple[str, ...], place: Place) -> Choices:
    try:
        return Choices(options)
    except ValueError as problem:
        raise place.error(problem) from None


def _encode_project(op: Project) -> pb.Project:
    if isinstance(op.key, int):
        return pb.Project(index=op.key, default=op.default)
    return pb.Project(field=op.key, default=op.default)


def _decode_project(message: pb.Project, place: Place) -> Project:
    default = message.default if message.HasField("default") else None
    match message.WhichOneof("key"):
        case "field":
            return Project(message.field, default)
        case "index":
            return Project(message.index, default)
        case _:
            raise place.error(f"the key must be one of {_members(pb.Project, 'key')}")


def _encode_key(key: Key) -> pb.Key:
    return pb.Key(index=key) if isinstance(key, int) else pb.Key(field=key)


def _decode_key(message: pb.Key, place: Place) -> Key:
    match message.WhichOneof("key"):
        case "field":
            return message.field
        case "index":
            return message.index
        case _:
            raise place.error(f"a key must be one of {_members(pb.Key, 'key')}")


def _members(message: type[pb.Type | pb.Part | pb.Constraint | pb.Project | pb.Key], oneof: str) -> str:
    return listed(field.name for field in message.DESCRIPTOR.oneofs_by_name[oneof].fields)


register(Type, Wire(encode_type, decode_type))
register(Data, Wire(encode_type, _decode_data))
register(Part, Wire(_encode_part, _decode_part))
register(Piece, Wire(_encode_part, _decode_piece))
register(Constraint, Wire(_encode_constraint, _decode_constraint))
register(Project, Wire(_encode_project, _decode_project))
register(Key, Wire(_encode_key, _decode_key))
