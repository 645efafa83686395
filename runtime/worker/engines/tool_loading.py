"""Tools of the server: Python functions and programs named in its configuration, and what they take."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, NotRequired, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError
from typing_extensions import TypedDict  # before Python 3.12 pydantic takes no other

from weft.graph import schema
from weft.graph.types import JSON, TEXT, Data, Type
from weft.runtime.config import HostedPrograms

from ..faults import TaskError
from .base import StartError

__all__ = ["ServerTool", "load_programs", "load_tools", "tool_of"]

_PROGRAMS: Final = 1024
"""So many runs of one program may go on at a time: they wait for models most of it."""


@dataclass(frozen=True)
class ServerTool:
    """A function that runs in the worker's process."""

    name: str
    function: Callable[..., Any]
    arguments: TypeAdapter[Mapping[str, Any]]
    result: Type
    description: str = ""
    idempotent: bool = False
    pure: bool = False
    capacity: int = 0
    """Calls at a time; 0: as many as of tools."""

    @cached_property
    def is_async(self) -> bool:
        """Whether calling it gives an awaitable."""
        return inspect.iscoroutinefunction(inspect.unwrap(self.function))

    @property
    def parameters(self) -> str:
        """The JSON Schema of its arguments, as JSON text."""
        return schema.canonical(self.arguments.json_schema())

    def bind(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """The arguments as the annotated types. Raises TaskError that names the first that does not fit."""
        try:
            return self.arguments.validate_python(arguments)
        except ValidationError as problem:
            first = problem.errors()[0]
            place = ".".join(map(str, first["loc"])) or "arguments"
            raise TaskError("invalid", f"tool {self.name!r}: {place}: {first['msg']}") from problem


def load_tools(entry_points: Iterable[str]) -> dict[str, ServerTool]:
    """The tools by name; their modules may lie in the working folder.

    Raises StartError for a module or function that is not there, a signature that cannot be called by name,
    and two tools of one name.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # last: its folders may have the names of packages
    tools: dict[str, ServerTool] = {}
    for entry_point in entry_points:
        tool = tool_of(_resolve(entry_point), entry_point)
        if tool.name in tools:
            raise StartError(f"tool {entry_point!r}: another tool is called {tool.name!r} too")
        tools[tool.name] = tool
    return tools


def load_programs(programs: HostedPrograms, tools: Container[str]) -> dict[str, ServerTool]:
    """The programs as tools by name.

    Raises StartError for one that cannot be loaded, or is called as a tool.
    """
    load = _resolve(programs.loader)
    found: dict[str, ServerTool] = {}
    for name, source in programs.sources.items():
        if name in tools:
            raise StartError(f"program {name!r}: a tool is called so too; give one of them another name")
        try:
            found[name] = replace(load(name, source), capacity=_PROGRAMS)
        except Exception as problem:  # its module may raise anything
            reason = f"{type(problem).__name__}: {_first_line(problem)}"
            raise StartError(f"program {name!r}: {source!r} cannot be loaded: {reason}") from problem
    return found


def tool_of(target: Any, where: str) -> ServerTool:
    """A tool from a function, or from what a decorator made of one (it has `__wrapped__`).

    Attributes `name`, `idempotent` and `pure` count where the decorated object has them. Raises StartError.
    """
    function = inspect.unwrap(target)
    if not inspect.isroutine(function):
        raise StartError(f"tool {where!r}: an object of type {type(target).__name__!r} is no function")
    try:
        hints = get_type_hints(function, include_extras=True)
        arguments = _arguments_of(function, hints)
    except (NameError, TypeError, ValueError, PydanticSchemaGenerationError) as problem:
        raise StartError(f"tool {where!r}: its signature cannot be used: {_first_line(problem)}") from problem
    return ServerTool(
        name=str(getattr(target, "name", function.__name__)),
        function=target,
        arguments=arguments,
        result=_result_of(hints.get("return", Any)),
        description=inspect.getdoc(function) or "",
        idempotent=bool(getattr(target, "idempotent", False)),
        pure=bool(getattr(target, "pure", False)),
    )


def _resolve(entry_point: str) -> Any:
    module_name, _, name = entry_point.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as problem:  # a module may raise anything
        reason = f"{type(problem).__name__}: {_first_line(problem)}"
        raise StartError(
            f"tool {entry_point!r}: module {module_name!r} cannot be imported: {reason}"
        ) from problem
    if not hasattr(module, name):
        raise StartError(f"tool {entry_point!r}: module {module_name!r} has no {name!r}")
    return getattr(module, name)


def _arguments_of(function: Callable[..., Any], hints: Mapping[str, Any]) -> TypeAdapter[Mapping[str, Any]]:
    """What checks and converts the arguments: an object with a member for each parameter."""
    members: dict[str, Any] = {}
    extra: Literal["forbid", "allow"] = "forbid"
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
            raise TypeError(f"parameter {parameter.name!r} cannot be given by name")
        if parameter.kind is parameter.VAR_KEYWORD:
            extra = "allow"
            continue
        hint = hints.get(parameter.name, Any)
        members[parameter.name] = hint if parameter.default is parameter.empty else NotRequired[hint]
    typed_dict: Any = TypedDict  # to type checkers, one whose members are known only now is none
    shape = typed_dict("Arguments", members)
    shape.__pydantic_config__ = ConfigDict(extra=extra)
    adapter: TypeAdapter[Mapping[str, Any]] = TypeAdapter(shape)
    adapter.json_schema()
    return adapter


def _result_of(hint: Any) -> Type:
    if hint is str:
        return TEXT
    try:
        return Data(schema.canonical(TypeAdapter(hint).json_schema(mode="serialization")))
    except (PydanticSchemaGenerationError, PydanticInvalidForJsonSchema):
        return JSON


def _first_line(problem: Exception) -> str:
    return str(problem).partition("\n")[0]
