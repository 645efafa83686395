"""Calls of tools by a model: what it may call, and what it has called."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from weft.graph import schema as json_schema
from weft.graph.prompt import MessageCall
from weft.graph.sampling import JsonSchema
from weft.runtime.calling.forcing import one_call_of
from weft.runtime.calling.reading import CallReader

from .errors import TraceError
from .location import located
from .tools import ServerTool, Tool
from .var import Var

__all__ = ["AnyTool", "ToolCall", "Toolset", "Turn"]

AnyTool = Tool[..., Any] | ServerTool[Any] | Mapping[str, Any]
"""A tool of this process or of the server, or the specification of a function as in OpenAI's API."""

_NO_ARGUMENTS: Final = {"type": "object", "properties": {}}


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool by a model."""

    name: str
    arguments: dict[str, Any]
    """As JSON data."""
    id: str = ""
    problem: str = ""
    """Why it cannot be carried out, in words for the model; empty if it can."""

    @property
    def message(self) -> MessageCall:
        """As a message of the assistant holds it."""
        return MessageCall(self.id, self.name, json.dumps(self.arguments, ensure_ascii=False))


@dataclass(frozen=True)
class Turn:
    """What a model has said in its turn."""

    text: str
    """Without the calls."""
    calls: list[ToolCall]


class Toolset:
    """The tools that a model may call in a conversation. Raises TraceError for what is none."""

    def __init__(self, tools: Iterable[AnyTool]) -> None:
        self._tools: dict[str, AnyTool] = {}
        self._functions: dict[str, dict[str, Any]] = {}
        for tool in tools:
            function = _function(tool)
            name = function["name"]
            if name in self._tools:
                raise TraceError(located(f"two tools are called {name!r}: give each a name of its own"))
            self._tools[name], self._functions[name] = tool, function

    def __bool__(self) -> bool:
        return bool(self._tools)

    @property
    def text(self) -> str:
        """The functions as JSON text."""
        listed = [{"type": "function", "function": function} for function in self._functions.values()]
        return json.dumps(listed, ensure_ascii=False)

    def forced(self, choice: str | AnyTool) -> JsonSchema:
        """What has the model call one of the tools, or the tool that is named. Raises TraceError."""
        name = choice if isinstance(choice, str) else _function(choice)["name"]
        names = list(self._functions) if name == "required" else [name]
        if not set(names) <= self._functions.keys() or not names:
            known = ", ".join(map(repr, self._functions)) or "none"
            raise TraceError(located(f"tool_choice is {name!r}; the tools are: {known}"))
        return one_call_of({name: self._functions[name]["parameters"] for name in names})

    def read(self, text: str, taken: Iterable[str]) -> Turn:
        """What a model has written; `taken` are ids of earlier calls. What is no call is text."""
        reader = CallReader()
        said, ids = [*reader.push(text), *reader.close()], _fresh(taken)
        calls = [
            self._call(piece.name, piece.arguments, next(ids)) for piece in said if not isinstance(piece, str)
        ]
        return Turn("".join(piece for piece in said if isinstance(piece, str)), calls)

    def run(self, call: ToolCall) -> Var[Any]:
        """Carry out a call that can be. Raises TraceError if this is not for weft to do."""
        match self._tools.get(call.name):
            case Tool() as tool:
                return tool(**tool.arguments(call.arguments))
            case ServerTool() as tool:
                return tool(**call.arguments)
            case _:
                raise TraceError(
                    located(
                        f"{call.name!r} is no tool of this program or of the server: carry its calls out, "
                        "and say what they give by tool(call, result)"
                    )
                )

    def _call(self, name: str, arguments: Any, id: str) -> ToolCall:
        if name not in self._tools:
            known = ", ".join(self._tools) or "none"
            given = arguments if isinstance(arguments, dict) else {}
            return ToolCall(name, given, id, f"there is no tool {name!r}; the tools are: {known}")
        if not isinstance(arguments, dict):
            return ToolCall(name, {}, id, self._told(name, "they must be an object"))
        problem = self._problem(name, arguments)
        return ToolCall(name, arguments, id, self._told(name, problem) if problem else "")

    def _problem(self, name: str, arguments: dict[str, Any]) -> str:
        tool = self._tools[name]
        if isinstance(tool, Tool):
            return tool.problem(arguments)
        parameters = self._functions[name]["parameters"]
        unknown = arguments.keys() - parameters.get("properties", {}).keys()
        closed = isinstance(tool, ServerTool)  # the server would end the run
        if unknown and not parameters.get("additionalProperties", not closed):
            return f"there is no {min(unknown)!r}"
        try:
            json_schema.check(arguments, json.dumps(parameters), name)
        except ValueError as problem:
            return str(problem)
        return ""

    def _told(self, name: str, problem: str) -> str:
        schema = self._functions[name]["parameters"]
        required = schema.get("required", ())
        takes = (f"{key} (required)" if key in required else key for key in schema.get("properties", {}))
        return f"the arguments of {name!r} do not fit: {problem}; it takes: {', '.join(takes) or 'none'}"


def _function(tool: AnyTool) -> dict[str, Any]:
    """The function that a tool is to a model. Raises TraceError."""
    match tool:
        case Tool():
            return {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
        case ServerTool(parameters=None):
            raise TraceError(
                located(
                    f"a model has to be told what {tool.name!r} takes: "
                    f"write server_tool({tool.name!r}, description=…, parameters=…)"
                )
            )
        case ServerTool(parameters=Mapping() as parameters):
            return _specified(tool.name, {"description": tool.description, "parameters": parameters})
        case {"type": "function", "function": {"name": str(name), **given}} | {"name": str(name), **given}:
            return _specified(name, given)
        case _:
            pass
    raise TraceError(
        located(
            "a tool must be a function with @tool, a server_tool, or a specification "
            f'{{"name": …, "description": …, "parameters": …}}, not {tool!r}'
        )
    )


def _specified(name: str, given: Mapping[Any, Any]) -> dict[str, Any]:
    parameters = given.get("parameters", _NO_ARGUMENTS)
    try:
        json_schema.parse(json.dumps(parameters))
    except (TypeError, ValueError) as problem:
        raise TraceError(located(f"the parameters of tool {name!r} are no JSON Schema: {problem}")) from None
    return {"name": name, "description": given.get("description") or "", "parameters": dict(parameters)}


def _fresh(taken: Iterable[str]) -> Iterator[str]:
    """Ids of calls; of nine characters, for Mistral's template takes no others."""
    used = set(taken)
    return (name for number in range(len(used), 100_000) if (name := f"call{number:05}") not in used)
