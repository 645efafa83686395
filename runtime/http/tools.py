"""Which tools an answer may call, and the constraint that forces a call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from weft.graph.sampling import JsonSchema
from weft.runtime.calling.forcing import one_call_of

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
        return one_call_of({tool.function.name: tool.function.parameters for tool in self.tools})


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
