"""Python values as values of the graph, and results of the graph as Python values of the same structure."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from pydantic import BaseModel

from weft.graph.ir import Value
from weft.graph.ops.common import Const, Format, Gather
from weft.graph.types import BOOLEAN, INTEGER, JSON, NUMBER, STRINGS, TEXT, Type

from .errors import TraceError
from .location import located
from .markers import has_marks
from .pytypes import ANYTHING, PyType, py_type
from .slots import Slots
from .var import Var

if TYPE_CHECKING:
    from .trace import Trace

__all__ = ["Convert", "Lifted", "Shape", "as_data", "as_typed", "holds_var", "joined", "lifted"]

Convert = Callable[[PyType, Any], Any]
"""What becomes of the JSON data where its Python type is known."""

_SCALARS: Final[Mapping[type, Type]] = {bool: BOOLEAN, int: INTEGER, float: NUMBER, type(None): JSON}


def as_data(pytype: PyType, data: Any) -> Any:
    """Leaves JSON data as it is."""
    return data


def as_typed(pytype: PyType, data: Any) -> Any:
    """Makes values of their Python types. Raises ValueError."""
    return pytype.load(data)


class Shape(Protocol):
    """The structure of a Python value, apart from what stands at its leaves."""

    def restore(self, data: Any, convert: Convert) -> Any:
        """JSON data of this structure as Python values."""
        ...

    def view(self, var: Var[Any]) -> Any:
        """A `Var` of this structure as the structure of its parts."""
        ...


@dataclass(frozen=True)
class Leaf:
    """One value."""

    pytype: PyType

    def restore(self, data: Any, convert: Convert) -> Any:
        """The value."""
        return convert(self.pytype, data)

    def view(self, var: Var[Any]) -> Any:
        """The `Var` with its Python type."""
        return Var(var._trace, var._value, var._type, self.pytype)


@dataclass(frozen=True)
class Items:
    """A list, a tuple or a named tuple."""

    make: Callable[[Iterable[Any]], Any]
    items: tuple[Shape, ...]

    def restore(self, data: Any, convert: Convert) -> Any:
        """The list or tuple."""
        return self.make(item.restore(part, convert) for item, part in zip(self.items, data, strict=True))

    def view(self, var: Var[Any]) -> Any:
        """The list or tuple of the items."""
        return self.make(item.view(var[index]) for index, item in enumerate(self.items))


@dataclass(frozen=True)
class Fields:
    """A dict, or an object of a dataclass or a pydantic model."""

    owner: type
    fields: Mapping[str, Shape]

    def restore(self, data: Any, convert: Convert) -> Any:
        """The object; a dict's items in the order in which the program wrote them."""
        restored = {name: field.restore(data[name], convert) for name, field in self.fields.items()}
        return restored if self.owner is dict else convert(py_type(self.owner), restored)

    def view(self, var: Var[Any]) -> Any:
        """The object of the fields."""
        parts = {name: field.view(var._project(name, ANYTHING)) for name, field in self.fields.items()}
        if issubclass(self.owner, BaseModel):
            return self.owner.model_construct(**parts)
        return self.owner(**parts)


def joined(first: Shape, other: Shape) -> Shape:
    """The structure that two have in common: that of the first, with one value wherever they differ."""
    match first, other:
        case Leaf(), Leaf():
            return first
        case Items(), Items() if (first.make, len(first.items)) == (other.make, len(other.items)):
            return Items(first.make, tuple(map(joined, first.items, other.items)))
        case Fields(), Fields() if (first.owner, first.fields.keys()) == (other.owner, other.fields.keys()):
            fields = {name: joined(field, other.fields[name]) for name, field in first.fields.items()}
            return Fields(first.owner, fields)
        case _:
            return Leaf(ANYTHING)


@dataclass(frozen=True)
class Lifted:
    """A Python value on its way into the graph: a constant, or what makes its value."""

    shape: Shape
    json: Any = None
    make: Callable[[], Value] | None = None  # None: a constant

    @property
    def is_constant(self) -> bool:
        """Whether the value is known while the program is traced."""
        return self.make is None

    def const(self) -> Const:
        """The operation of a constant."""
        try:
            text = json.dumps(self.json, ensure_ascii=False, allow_nan=False)
        except ValueError:
            raise TraceError(located("JSON has no NaN and no infinity")) from None
        return Const(text, _constant_type(self.json))

    def value(self, trace: Trace) -> Value:
        """The value in the graph."""
        return trace.constant(self) if self.make is None else self.make()


def lifted(thing: object, trace: Trace, *, apart: bool = False) -> Lifted:
    """What a Python value, with `Var`s at any depth, becomes. Raises TraceError where JSON cannot say it.

    Objects of dataclasses and models are taken apart where a `Var` is inside, and everywhere if `apart`.
    """
    if isinstance(thing, Var):
        return Lifted(Leaf(thing._pytype), make=lambda: trace.own(thing))
    kind = type(thing)
    if kind is str:
        return _text(str(thing), trace)
    if kind in _SCALARS:
        return Lifted(Leaf(ANYTHING), thing)
    if isinstance(thing, (list, tuple)):
        return _items([lifted(item, trace, apart=apart) for item in thing], _maker(kind), trace)
    attributes = _attributes(thing)
    if isinstance(thing, dict) or (attributes and (apart or holds_var(thing))):
        fields = thing if isinstance(thing, dict) else attributes
        named = {_key(name): lifted(value, trace, apart=apart) for name, value in fields.items()}
        return _fields(named, dict if isinstance(thing, dict) else kind, trace)
    return _object(thing)


def _text(text: str, trace: Trace) -> Lifted:
    if not has_marks(text):
        return Lifted(Leaf(py_type(str)), text)
    parts = trace.cut(text)
    if len(parts) == 1 and isinstance(parts[0], Var) and parts[0]._type == TEXT:
        return lifted(parts[0], trace)

    def make() -> Value:
        slots = Slots(trace)
        return trace.add(Format(slots.parts(text)), slots.args)

    return Lifted(Leaf(py_type(str)), make=make)


def _items(items: list[Lifted], make: Callable[[Iterable[Any]], Any], trace: Trace) -> Lifted:
    shape = Items(make, tuple(item.shape for item in items))
    if all(item.is_constant for item in items):
        return Lifted(shape, [item.json for item in items])
    named = {str(index): item for index, item in enumerate(items)}
    return Lifted(shape, make=lambda: _gather("list", named, trace))


def _fields(fields: dict[str, Lifted], owner: type, trace: Trace) -> Lifted:
    shape = Fields(owner, {name: field.shape for name, field in fields.items()})
    if all(field.is_constant for field in fields.values()):
        return Lifted(shape, {name: field.json for name, field in fields.items()})
    return Lifted(shape, make=lambda: _gather("object", fields, trace))


def _gather(form: Literal["list", "object"], parts: Mapping[str, Lifted], trace: Trace) -> Value:
    return trace.add(Gather(form), {name: part.value(trace) for name, part in parts.items()})


def _key(name: object) -> str:
    if not isinstance(name, str):
        raise TraceError(located(f"the keys of an object must be strings, not {name!r}"))
    return name


def _object(thing: object) -> Lifted:
    if isinstance(thing, Coroutine):
        thing.close()
        raise TraceError(located("a coroutine cannot go into a graph: write `await` before what gives it"))
    pytype = py_type(type(thing))
    try:
        return Lifted(Leaf(pytype), pytype.dump(thing))
    except (ValueError, TypeError, RuntimeError) as problem:
        reason = str(problem).splitlines()[0]
        raise TraceError(
            located(f"a value of type {type(thing).__name__!r} cannot go into a graph: {reason}")
        ) from None


def _attributes(thing: object) -> dict[str, Any]:
    """The fields of a dataclass or a pydantic model as JSON names them; nothing for other objects."""
    if isinstance(thing, BaseModel):
        pytype = py_type(type(thing))
        return {pytype.field(name).names[0]: getattr(thing, name) for name in type(thing).model_fields}
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        return {field.name: getattr(thing, field.name) for field in dataclasses.fields(thing)}
    return {}


def holds_var(thing: object) -> bool:
    """Whether a `Var` is in a Python value, at any depth, or was formatted into a string of it."""
    if isinstance(thing, Var):
        return True
    if isinstance(thing, str):
        return has_marks(thing)
    if isinstance(thing, (list, tuple)):
        return any(holds_var(item) for item in thing)
    inner = thing if isinstance(thing, dict) else _attributes(thing)
    return any(holds_var(item) for item in inner.values())


def _maker(kind: type) -> Callable[[Iterable[Any]], Any]:
    make: Callable[[Iterable[Any]], Any] | None = getattr(kind, "_make", None)  # of a named tuple
    if make is not None:
        return make
    return list if issubclass(kind, list) else tuple


def _constant_type(data: Any) -> Type:
    if isinstance(data, str):
        return TEXT
    if isinstance(data, list) and data and all(isinstance(item, str) for item in data):
        return STRINGS
    return _SCALARS.get(type(data), JSON)
