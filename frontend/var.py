"""`Var`: a value of the graph, standing in the program for what only the run will know."""

from __future__ import annotations

from collections.abc import Awaitable, Generator, Iterator
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Self, TypeVar, overload

from weft.graph import schema as json_schema
from weft.graph.ir import Value
from weft.graph.ops.common import Equals, Project
from weft.graph.types import JSON, Data, Text, Type

from .errors import TraceError
from .location import located
from .markers import mark, repr_tag
from .pytypes import PyType

__all__ = ["Var"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

if TYPE_CHECKING:
    from .trace import Trace

    class _Anything(Awaitable[T_co], Any):  # type: ignore[misc]  # mypy forbids the base Any, which alone lets a Var stand wherever its value may
        pass
else:

    class _Anything(Generic[T_co]):
        pass


_TOOL = "let a tool do that, or "
_REMEDY = (
    "await it in an async program, use cond/loop/map, or annotate the parameter Static[...] if it is known "
    "before the run"
)


class NoAttributeError(TraceError, AttributeError):
    """A value has no such field; an `AttributeError` too, so that `hasattr` answers."""


class Var(_Anything[T_co]):
    """A value that the run will make; `T_co` is its Python type.

    It can be put into f-strings and handed to every operation; its fields and items are `Var`s too; in an
    async program `await` gives the value. Whatever needs the value before that raises TraceError.
    """

    _trace: Trace
    _value: Value
    _type: Type
    _pytype: PyType
    __slots__ = ("_pytype", "_trace", "_type", "_value")

    def __init__(self, trace: Trace, value: Value, kind: Type, pytype: PyType) -> None:
        object.__setattr__(self, "_trace", trace)
        object.__setattr__(self, "_value", value)
        object.__setattr__(self, "_type", kind)
        object.__setattr__(self, "_pytype", pytype)

    def equals(self, other: object) -> Var[bool]:
        """Whether the value equals `other` (a constant or a `Var`), for `cond` and `loop`."""
        scope = self._trace.scope()
        operands = {"a": scope.own(self), "b": scope.lift(other)}
        return scope.var(scope.add(Equals(), operands), PyType(bool))

    # ---- fields, items and text, which stay unknown

    def __getattr__(self, name: str) -> Var[Any]:
        if name.startswith("__") or not isinstance(self._type, Data):
            raise NoAttributeError(
                located(f"{self._what()} has no attribute {name!r}; to work on the value, {_TOOL}{_REMEDY}")
            )
        field = self._pytype.field(name)
        known = json_schema.fields(self._type.schema)
        key = next((key for key in field.names if known is None or key in known), None)
        if key is None:
            remedy = f"to work on it, {_TOOL}{_REMEDY}"
            hint = f"known fields: {', '.join(map(repr, known))}" if known else remedy
            raise NoAttributeError(located(f"{self._what()} has no field {name!r}; {hint}"))
        return self._project(key, field.pytype, field.default)

    @overload
    def __getitem__(self: Var[list[T]], key: int) -> Var[T]: ...
    @overload
    def __getitem__(self, key: str | int) -> Var[Any]: ...

    def __getitem__(self, key: str | int) -> Var[Any]:
        if isinstance(key, str):
            return self.__getattr__(key)
        if isinstance(key, bool) or not isinstance(key, int):
            raise self._unknown(f"taking item {key!r} (only one item or field can be taken)")
        if isinstance(self._type, Text):
            raise self._unknown("taking a character")
        return self._project(key, self._pytype.item(key))

    def __format__(self, spec: str) -> str:
        if spec:
            raise self._unknown(f"the format {spec!r}")
        return str(self)

    def __str__(self) -> str:
        return mark(self._trace.nonce, self._trace.register(self))

    def __repr__(self) -> str:
        return f"<{self._value} {self._type}, {repr_tag(self._trace.nonce)} of {self._trace.program!r}>"

    def __add__(self, other: object) -> str:
        return f"{self._text()}{_addend(other)}"

    def __radd__(self, other: object) -> str:
        return f"{_addend(other)}{self._text()}"

    def __await__(self) -> Generator[Any, Any, T_co]:
        return self._trace.scope().awaited(self).__await__()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    # ---- what needs the value now

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise TraceError(located(f"cannot set {name!r}: {self._what()} is immutable"))

    def __bool__(self) -> NoReturn:
        raise self._unknown("using it as a condition (if, while, and, or, not)")

    def __len__(self) -> NoReturn:
        raise self._unknown("len()")

    def _iterate(self) -> Iterator[Any]:
        raise self._unknown("iterating over it")
        yield  # str.join and others hide what raises before the first item

    def __contains__(self, item: object) -> NoReturn:
        raise self._unknown("`in`")

    def __int__(self) -> NoReturn:
        raise self._unknown("int()", _TOOL)

    def __index__(self) -> NoReturn:
        raise self._unknown("using it as an index or a count")

    def __float__(self) -> NoReturn:
        raise self._unknown("float()", _TOOL)

    def __eq__(self, other: object) -> NoReturn:
        raise self._unknown("comparing it", "write x.equals(y), or ")

    def __ne__(self, other: object) -> NoReturn:
        raise self._unknown("comparing it", "write x.equals(y), or ")

    def _compare(self, other: object) -> NoReturn:
        raise self._unknown("comparing it", _TOOL)

    def _compute(self, *others: object) -> NoReturn:
        raise self._unknown("computing with it", _TOOL)

    __lt__ = __le__ = __gt__ = __ge__ = _compare
    __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _compute
    __floordiv__ = __rfloordiv__ = __mod__ = __pow__ = __rpow__ = __neg__ = __abs__ = __round__ = _compute
    __iter__: Any = _iterate  # mypy takes a Var with an __iter__ of any type for no Awaitable
    __hash__ = object.__hash__

    def _project(self, key: str | int, pytype: PyType, default: str | None = None) -> Var[Any]:
        scope = self._trace.scope()
        return scope.var(scope.add(Project(key, default), {"value": scope.own(self)}), pytype)

    def _text(self) -> str:
        if not isinstance(self._type, Text) and self._type != JSON:
            raise self._unknown("computing with it", _TOOL)
        return str(self)

    def _what(self) -> str:
        return f"{self._value} (a value of program {self._trace.program!r}, type {self._type})"

    def _unknown(self, what: str, remedy: str = "") -> TraceError:
        return TraceError(
            located(f"{what} needs {self._what()}, which only the run will know; {remedy}{_REMEDY}")
        )


def _addend(other: object) -> str:
    if not isinstance(other, (str, Var)):
        raise TraceError(located(f"a Var and a {type(other).__name__} cannot be added; write an f-string"))
    return other._text() if isinstance(other, Var) else other
