"""Python types, and what they are in the graph: text, or data that conforms to a JSON Schema."""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property, lru_cache
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    NamedTuple,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from pydantic import AliasChoices, BaseModel, PydanticUserError, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import SchemaError

from weft.graph import schema as json_schema
from weft.graph.types import TEXT, Data, Type

from .schemas import Schemas

__all__ = ["ANYTHING", "PyField", "PyType", "problem_of", "py_type", "schemas_of", "text_options"]

SchemaMode = Literal["validation", "serialization"]


@dataclass(frozen=True)
class PyType:
    """A Python annotation, with what converts its values to JSON data and back."""

    annotation: Any

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        try:
            return TypeAdapter(self.annotation)
        except (PydanticUserError, SchemaError) as problem:
            raise self._unfit(problem) from None

    @property
    def name(self) -> str:
        """How messages call the type."""
        return "any JSON value" if self.annotation is Any else _type_name(self.annotation)

    def schema(self, mode: SchemaMode) -> str:
        """The canonical JSON Schema: of what is read (`validation`) or of what is written (`serialization`).

        Raises TypeError for a type that JSON cannot carry.
        """
        try:
            return json_schema.canonical(self._adapter.json_schema(mode=mode, schema_generator=Schemas))
        except PydanticUserError as problem:
            raise self._unfit(problem) from None

    def require(self) -> None:
        """Raises TypeError for a type that pydantic cannot convert to JSON data and back."""
        _ = self._adapter

    def graph_type(self) -> Type:
        """What values of the type are in the graph."""
        schema = self.schema("serialization")
        return TEXT if json.loads(schema).get("type") == "string" else Data(schema)

    def dump(self, value: Any) -> Any:
        """A Python value of the type as JSON data. Raises ValueError that says what does not fit."""
        try:
            checked = self._adapter.validate_python(value)
            return self._adapter.dump_python(checked, mode="json", by_alias=True)
        except ValidationError as problem:
            raise ValueError(problem_of(problem)) from None

    def load(self, data: Any) -> Any:
        """JSON data as a Python value of the type. Raises ValueError that says what does not fit."""
        if self.annotation is Any:
            return data
        try:
            return self._adapter.validate_python(data)
        except ValidationError as problem:
            found = problem
        try:  # strict models take a date, an enum, a tuple as JSON has it from JSON text only
            return self._adapter.validate_json(json.dumps(data))
        except ValidationError as problem:
            found = problem
        except (TypeError, ValueError):
            pass  # no JSON data: the first problem stands
        raise ValueError(problem_of(found))

    def field(self, name: str) -> PyField:
        """A field as far as it is known."""
        owner = _without_none(self.annotation)
        if isinstance(owner, type) and issubclass(owner, BaseModel) and name in owner.model_fields:
            return _model_field(name, owner.model_fields[name])
        if dataclasses.is_dataclass(owner) or is_typeddict(owner):
            pytype = py_type(get_type_hints(owner, include_extras=True).get(name, Any))
            return PyField((name,), pytype, pytype.default(_dataclass_default(owner, name)))
        arguments = get_args(owner)
        if _is_kind(owner, Mapping) and len(arguments) == 2:
            return PyField((name,), py_type(arguments[1]))
        return PyField((name,), ANYTHING)

    def default(self, make: Callable[[], Any] | None) -> str | None:
        """The JSON text of a field's default; None if there is none, or none of the type."""
        if make is None:
            return None
        try:
            return json.dumps(self.dump(make()), ensure_ascii=False, allow_nan=False)
        except ValueError:
            return None

    def item(self, index: int = 0) -> PyType:
        """The type of an item of a list or a tuple, as far as it is known."""
        owner = _without_none(self.annotation)
        arguments = get_args(owner)
        if get_origin(owner) is tuple and arguments and arguments[-1] is not Ellipsis:
            return py_type(arguments[index]) if -len(arguments) <= index < len(arguments) else ANYTHING
        return py_type(arguments[0]) if arguments and _is_kind(owner, Sequence) else ANYTHING

    def list_of(self) -> PyType:
        """The type of a list of such values."""
        return py_type(types.GenericAlias(list, (self.annotation,)))

    def _unfit(self, problem: PydanticUserError | SchemaError) -> TypeError:
        reason = str(problem).splitlines()[0].partition(". ")[0]  # the rest is about pydantic's settings
        return TypeError(f"{self.name} has no JSON Schema: {reason}")


class PyField(NamedTuple):
    """A field of a Python type."""

    names: tuple[str, ...]
    """What JSON calls it: as it is written, and as it may be read."""
    pytype: PyType
    default: str | None = None
    """The JSON text of what stands there if it is left out."""


def _model_field(name: str, info: FieldInfo) -> PyField:
    pytype = py_type(Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation)
    read = info.validation_alias
    choices = read.choices if isinstance(read, AliasChoices) else [read]
    names = (info.serialization_alias or name, *(alias for alias in choices if isinstance(alias, str)), name)
    make = None if info.is_required() else lambda: info.get_default(call_default_factory=True)
    return PyField(tuple(dict.fromkeys(names)), pytype, pytype.default(make))


def _dataclass_default(owner: Any, name: str) -> Callable[[], Any] | None:
    for field in dataclasses.fields(owner) if dataclasses.is_dataclass(owner) else ():
        if field.name == name and field.default is not dataclasses.MISSING:
            return lambda: field.default
        if field.name == name and field.default_factory is not dataclasses.MISSING:
            return field.default_factory
    return None


def py_type(annotation: Any) -> PyType:
    """The `PyType` of an annotation; equal annotations share one where they can be hashed."""
    try:
        return _cached(annotation)
    except TypeError:
        return PyType(annotation)


@lru_cache(maxsize=1024)
def _cached(annotation: Any) -> PyType:
    return PyType(annotation)


ANYTHING: Final = PyType(Any)
"""Any JSON value, taken as it is."""


def schemas_of(types: Mapping[str, PyType]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The JSON Schemas of what is read by name, and `$defs` of what they share.

    Raises TypeError for a type that JSON cannot carry.
    """
    try:
        schemas, shared = TypeAdapter.json_schemas(
            [(name, "validation", pytype._adapter) for name, pytype in types.items()],
            schema_generator=Schemas,
        )
    except PydanticUserError as problem:
        raise TypeError(str(problem)) from None
    found = {name: schemas[name, "validation"] for name in types}
    return found, {key: value for key, value in shared.items() if key == "$defs"}


def text_options(annotation: Any) -> tuple[str, ...] | None:
    """The texts that a `Literal` of strings or an `Enum` of strings allows; None for any other type."""
    options: Sequence[Any] = ()
    if get_origin(annotation) is Literal:
        options = get_args(annotation)
    elif isinstance(annotation, type) and issubclass(annotation, Enum):
        options = [member.value for member in annotation]
    if not options or not all(isinstance(option, str) for option in options):
        return None
    return tuple(options)


def problem_of(error: ValidationError) -> str:
    """The first thing that pydantic found wrong, in one line."""
    first = error.errors(include_url=False)[0]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
    given = repr(first["input"])
    shown = given if len(given) <= 80 else given[:79] + "…"
    message = first["msg"][:1].lower() + first["msg"][1:]
    return f"{path.lstrip('.') + ': ' if path else ''}{message}, got {shown}"


def _type_name(annotation: Any) -> str:
    if get_origin(annotation) is Annotated:
        return _type_name(get_args(annotation)[0])
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation.__name__
    return str(annotation).replace("typing.", "")


def _without_none(annotation: Any) -> Any:
    """The type of `T | None` without the None, of `Annotated[T, …]` without the annotations."""
    if get_origin(annotation) is Annotated:
        return _without_none(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        some = [member for member in get_args(annotation) if member is not type(None)]
        return _without_none(some[0]) if len(some) == 1 else Any
    return annotation


def _is_kind(annotation: Any, kind: type) -> bool:
    origin = get_origin(annotation) or annotation
    return isinstance(origin, type) and issubclass(origin, kind) and not issubclass(origin, (str, bytes))
