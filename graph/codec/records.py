"""Dataclasses to messages and back, by the names and types of their fields.

A record and its message have the same name and the same field names. An absent field means the default of the
dataclass; a scalar that the message cannot mark as absent is absent when it is zero or empty.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache, reduce
from operator import or_
from types import NoneType, UnionType
from typing import Any, Final, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from google.protobuf.message import Message

from weft.proto import graph_pb2

from ..errors import GraphError

__all__ = ["TOP", "Place", "Wire", "choice", "listed", "register", "wire_of"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where the decoder is: the node as errors name it, and the path of fields below it."""

    node: str = ""
    path: str = ""
    depth: int = 0  # bodies around it

    def error(self, problem: object) -> GraphError:
        """The error that `problem` is here."""
        return GraphError(": ".join(part for part in (self.node, self.path, str(problem)) if part))

    def field(self, name: str) -> Place:
        """The field called `name` of what is here."""
        return Place(self.node, f"{self.path}.{name}" if self.path else name, self.depth)

    def item(self, index: int) -> Place:
        """Item `index` of the list that is here."""
        return Place(self.node, f"{self.path}[{index}]", self.depth)

    def within(self, node: str) -> Place:
        """The node of that name in the graph that is here."""
        return Place(": ".join(part for part in (self.node, self.path, node) if part), "", self.depth)

    def deeper(self) -> Place:
        """The body that is here."""
        return Place(self.node, self.path, self.depth + 1)


TOP: Final = Place()
"""The message as a whole."""


@dataclass(frozen=True, slots=True)
class Wire:
    """How values of one Python type travel: as a scalar or a message, and back."""

    encode: Callable[[Any], Any]
    decode: Callable[[Any, Place], Any]


class _Entry(NamedTuple):
    """One field of a record."""

    name: str
    wire: Wire
    repeated: bool
    presence: bool  # whether the message can mark it as absent
    default: Any  # MISSING: the author has to write it


_SPECIAL: Final[dict[Any, Wire]] = {}


def register(kind: Any, wire: Wire) -> None:
    """Let values of type `kind` travel by `wire` instead of field by field."""
    _SPECIAL[kind] = wire


def wire_of(kind: Any) -> Wire:
    """How values of type `kind`, a class or an annotation, travel."""
    return _wire_of(kind)


@cache
def _wire_of(kind: Any) -> Wire:
    if kind in _SPECIAL:
        return _SPECIAL[kind]
    if get_origin(kind) is Literal:
        return choice(get_args(kind))
    if get_origin(kind) in (Union, UnionType) and NoneType in get_args(kind):
        return wire_of(reduce(or_, (option for option in get_args(kind) if option is not NoneType)))
    if is_dataclass(kind) and isinstance(kind, type):
        return Wire(_encode_record, lambda message, place: _decode_record(kind, message, place))
    if kind is float:
        return Wire(float, _decode_float)
    if kind in (str, int, bool):
        return Wire(kind, lambda value, place: value)
    raise TypeError(f"nothing says how {kind!r} travels")


def choice(options: tuple[str, ...]) -> Wire:
    """How one of a few words travels."""

    def decode(word: str, place: Place) -> str:
        if word not in options:
            raise place.error(f"must be one of {listed(options)}, not {word!r}")
        return word

    return Wire(str, decode)


def listed(names: Any) -> str:
    """The names as errors list them."""
    return ", ".join(repr(name) for name in names)


@cache
def _entries(cls: type) -> tuple[_Entry, ...]:
    hints, descriptor = get_type_hints(cls), _message_of(cls).DESCRIPTOR
    return tuple(
        _entry(field, hints[field.name], descriptor.fields_by_name[field.name].has_presence)
        for field in fields(cls)
    )


def _entry(field: Field[Any], hint: Any, presence: bool) -> _Entry:
    repeated = get_origin(hint) is tuple
    default = field.default_factory() if field.default_factory is not MISSING else field.default
    return _Entry(field.name, wire_of(get_args(hint)[0] if repeated else hint), repeated, presence, default)


@cache
def _message_of(cls: type) -> type[Message]:
    message: type[Message] = getattr(graph_pb2, cls.__name__)
    return message


def _encode_record(record: Any) -> Message:
    values: dict[str, Any] = {}
    for name, wire, repeated, presence, default in _entries(record.__class__):
        value = getattr(record, name)
        if value is None or (presence and value == default):
            continue
        values[name] = [wire.encode(item) for item in value] if repeated else wire.encode(value)
    return _message_of(record.__class__)(**values)


def _decode_record(cls: type, message: Message, place: Place) -> Any:
    values = {entry.name: _decode_entry(entry, message, place) for entry in _entries(cls)}
    try:
        return cls(**values)
    except GraphError:
        raise
    except ValueError as problem:
        raise place.error(problem) from None


def _decode_entry(entry: _Entry, message: Message, place: Place) -> Any:
    value, here = getattr(message, entry.name), place.field(entry.name)
    if entry.repeated:
        return tuple(entry.wire.decode(item, here.item(index)) for index, item in enumerate(value))
    absent = not message.HasField(entry.name) if entry.presence else not value
    if absent and entry.default is not MISSING:
        return entry.default
    if absent and entry.presence:
        raise place.error(f"lacks the field {entry.name!r}")
    return entry.wire.decode(value, here)


def _decode_float(value: float, place: Place) -> float:
    if not math.isfinite(value):
        raise place.error(f"must be a finite number, not {value}")
    return value
