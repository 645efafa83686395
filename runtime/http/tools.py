"""Which tools an answer may call, and the constraint that forces a call."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from weft.graph.sampling import JsonSchema

from .bodies import ToolBody
from .errors import ApiError

__all__ = ["NO_TOOLS", "Toolbox", "read_tools"]

Mode = Literal["none", "auto", "required"]

_CHOICES: Final = '\'none\', \'auto\', \'required\' or {"type": "function", "function": {"name": "…"}}'


@dataclass(frozen=True)
class Toolbox:
    """The tools of a request."""

    tools: tuple[ToolBody, ...]
    """Those that the model may call, all of them shown to it."""
    mode: Mode
    parallel: bool = True
    """Whether one answer may hold several calls."""

    @property
    def names(self) -> frozenset[str]:
        """The names of the functions."""
        return frozenset(tool.function.name for tool in self.tools)

    @property
    def constraint(self) -> JsonSchema | None:
        """What forces one call of one of the tools: `{"name": "…", "arguments": {…}}`."""
        if self.mode != "required":
            return None
        definitions: dict[str, Any] = {}
        calls = []
        for number, tool in enumerate(self.tools):
            name = f"tool{number}"
            definitions[name] = _moved(tool.function.parameters, f"#/$defs/{name}")
            calls.append(
                {
                    "type": "object",
                    "properties": {
                        "name": {"const": tool.function.name},
                        "arguments": {"$ref": f"#/$defs/{name}"},
                    },
                    "required": ["name", "arguments"],
                    "additionalProperties": False,
                }
            )
        schema = calls[0] if len(calls) == 1 else {"anyOf": calls}
        return JsonSchema(json.dumps({**schema, "$defs": definitions}, ensure_ascii=False))


NO_TOOLS: Final = Toolbox((), "none")


def read_tools(tools: Sequence[ToolBody], choice: Any, parallel: bool) -> Toolbox:
    """The tools that a request gives, and its choice among them. Raises ApiError."""
    names = [tool.function.name for tool in tools]
    for index, name in enumerate(names):
        if name in names[:index]:
            param = f"tools[{index}].function.name"
            raise ApiError(400, f"two tools are called {name!r}: give each a name of its own", param=param)
    match choice:
        case None:
            return Toolbox(tuple(tools), "auto" if tools else "none", parallel)
        case "none":
            return Toolbox(tuple(tools), "none")
        case "auto" | "required" if not tools:
            raise ApiError(400, f"'tool_choice' is {choice!r}, but there are no 'tools'", param="tool_choice")
        case "auto" | "required":
            return Toolbox(tuple(tools), choice, parallel)
        case {"type": "function", "function": {"name": str(name)}} if name in names:
            return Toolbox((tools[names.index(name)],), "required")
        case {"type": "function", "function": {"name": str(name)}}:
            known = ", ".join(map(repr, names)) or "none"
            raise ApiError(400, f"'tool_choice' names {name!r}; the tools are: {known}", param="tool_choice")
        case _:
            raise ApiError(400, f"'tool_choice' must be {_CHOICES}", param="tool_choice")


def _moved(schema: Any, place: str) -> Any:
    """The schema with its references to its own root pointing to where it stands now."""
    if isinstance(schema, list):
        return [_moved(item, place) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {
        key: place + value[1:]
        if key == "$ref" and isinstance(value, str) and value.startswith("#")
        else _moved(value, place)
        for key, value in schema.items()
    }
