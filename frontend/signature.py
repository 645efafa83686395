"""What a function takes and gives, from its signature."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Annotated, Any, Final, TypeVar, get_args, get_origin, get_type_hints

from .errors import ArgumentError, TraceError
from .lifting import holds_var
from .location import function_location, located
from .pytypes import ANYTHING, PyType, py_type, schemas_of
from .var import Var

__all__ = ["Signature", "Static"]

T = TypeVar("T")


class _StaticMark:
    """Marks parameters that stay Python values."""


_STATIC: Final = _StaticMark()

Static = Annotated[T, _STATIC]
"""A parameter that stays a Python value while the program is traced; each value gives a graph of its own."""

_VARIADIC: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Signature:
    """The parameters and the result of a function, with their Python types."""

    def __init__(self, fn: Callable[..., Any], owner: str) -> None:
        self.owner = owner
        self._fn = fn
        self._signature = inspect.signature(fn)
        if self.names[:1] == ("self",):
            raise TraceError(
                located(
                    f"{owner} is a method, and its object cannot be sent: leave the decorator out, and "
                    f"write {owner.split()[0]}(self.{fn.__name__}) where the object is made"
                )
            )
        for parameter in self._signature.parameters.values():
            if parameter.kind in _VARIADIC:
                star = "**" if parameter.kind is inspect.Parameter.VAR_KEYWORD else "*"
                raise TraceError(
                    located(
                        f"{owner} has the parameter {star}{parameter.name}; every parameter needs a name "
                        "of its own: take a list or a dict instead"
                    )
                )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parameters, in order."""
        return tuple(self._signature.parameters)

    @cached_property
    def _hints(self) -> dict[str, Any]:
        """The annotations, resolved when first needed, so that they may name what is defined later."""
        outer = inspect.getclosurevars(self._fn).nonlocals
        try:
            return get_type_hints(self._fn, localns=dict(outer), include_extras=True)
        except NameError as problem:
            raise TraceError(
                f"{self._where}: {self.owner}: the annotation {problem.name!r} is not defined; annotations "
                "must name things of the module, not of a function around it"
            ) from None

    @cached_property
    def static(self) -> frozenset[str]:
        """The parameters that are annotated `Static[...]`."""
        return frozenset(name for name in self.names if _is_static(self._hints.get(name)))

    @cached_property
    def types(self) -> Mapping[str, PyType]:
        """The Python type of each parameter."""
        return {name: self._type(f"the parameter {name!r}", name) for name in self.names}

    @cached_property
    def returns(self) -> PyType:
        """The Python type of the result; anything if it is not annotated."""
        return self._type("the result", "return")

    @property
    def declares_result(self) -> bool:
        """Whether the result is annotated with something to convert it to."""
        return self.returns != ANYTHING

    def default(self, name: str) -> str | None:
        """The default of a parameter as JSON text, or None if it has none. Raises TraceError."""
        value = self._signature.parameters[name].default
        if value is inspect.Parameter.empty:
            return None
        return json.dumps(self._dumped(name, value, "default "), ensure_ascii=False)

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments by name, defaults left out. Raises TraceError for missing and unknown ones."""
        try:
            for name in kwargs:
                if name not in self.names:  # `bind` would speak of the argument that is missing instead
                    raise TypeError(f"got an unexpected keyword argument {name!r}")
            return dict(self._signature.bind(*args, **kwargs).arguments)
        except TypeError as problem:
            takes = ", ".join(self.names) or "nothing"
            raise ArgumentError(located(f"{self.owner}: {problem}; it takes {takes}")) from None

    def with_defaults(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All arguments, the defaults for those that are not given."""
        parameters = self._signature.parameters
        return {name: given[name] if name in given else parameters[name].default for name in parameters}

    def checked(self, name: str, value: Any) -> Any:
        """An argument in a program: a constant as JSON data, a `Var` as it is. Raises TraceError."""
        return value if holds_var(value) else self._dumped(name, value)

    def dump(self, name: str, value: Any) -> str:
        """An argument as JSON text. Raises TraceError, naming parameter and type, if it does not fit."""
        if isinstance(value, (Var, str)) and holds_var(value):
            raise TraceError(
                located(
                    f"{self.owner}: argument {name!r} is a value that only a run will know; to hand it on, "
                    "await it, or call the program itself, which makes it part of the one around it"
                )
            )
        text = json.dumps(self._dumped(name, value), ensure_ascii=False)
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ArgumentError(
                located(f"{self.owner}: argument {name!r} holds half of a surrogate pair, which is no text")
            ) from None
        return text

    def python(self, name: str, value: Any) -> Any:
        """An argument as the Python value that the parameter's type says. Raises TraceError."""
        if holds_var(value):
            return value
        data = self._dumped(name, value)
        try:
            return self.types[name].load(data)
        except ValueError as problem:
            raise ArgumentError(
                located(
                    f"{self.owner}: argument {name!r}: {self.types[name].name} does not read what it writes "
                    f"as JSON: {problem}"
                )
            ) from None

    def result(self, data: Any) -> Any:
        """What the function returned as the declared type. Raises ValueError if it is not of it."""
        try:
            return self.returns.load(data)
        except ValueError as problem:
            hint = "; is a `return` missing?" if data is None else ""
            raise ValueError(
                f"{self.owner} does not return the declared {self.returns.name}: {problem}{hint}"
            ) from None

    def load(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments that arrived as JSON data. Raises TraceError for unknown ones and wrong types."""
        given = self.bind((), data)
        try:
            return {name: self.types[name].load(value) for name, value in given.items()}
        except ValueError as problem:
            raise TraceError(f"{self.owner}: {problem}") from None

    def problem(self, data: Mapping[str, Any]) -> str:
        """What is wrong with arguments that arrived as JSON data; empty if nothing is."""
        for name in data:
            if name not in self.names:
                return f"there is no {name!r}"
        for name, parameter in self._signature.parameters.items():
            if name not in data and parameter.default is inspect.Parameter.empty:
                return f"{name!r} is missing"
        for name, value in data.items():
            try:
                self.types[name].load(value)
            except ValueError as problem:
                return f"{name!r} must be {self.types[name].name}: {problem}"
        return ""

    def schema(self) -> dict[str, Any]:
        """The JSON Schema of the arguments, as an object."""
        schemas, definitions = schemas_of(self.types)
        parameters = self._signature.parameters.values()
        return {
            "type": "object",
            "properties": schemas,
            "required": [p.name for p in parameters if p.default is inspect.Parameter.empty],
            "additionalProperties": False,
            **definitions,
        }

    @property
    def _where(self) -> str:
        return function_location(self._fn)

    def _type(self, what: str, name: str) -> PyType:
        annotation = self._hints.get(name, Any)
        if _is_static(annotation):
            annotation = get_args(annotation)[0]
        pytype = py_type(type(None) if annotation is None else annotation)
        try:
            pytype.require()
        except TypeError as problem:
            raise TraceError(
                f"{self._where}: {self.owner}: {what} cannot be sent as JSON: {problem}"
            ) from None
        return pytype

    def _dumped(self, name: str, value: Any, what: str = "") -> Any:
        pytype = self.types[name]
        try:
            return pytype.dump(value)
        except ValueError as problem:
            raise ArgumentError(
                located(f"{self.owner}: {what}argument {name!r} must be {pytype.name}: {problem}")
            ) from None


def _is_static(annotation: Any) -> bool:
    return get_origin(annotation) is Annotated and any(
        isinstance(mark, _StaticMark) for mark in get_args(annotation)[1:]
    )
