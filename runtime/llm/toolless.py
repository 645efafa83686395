"""Tools for models whose chat template does not know any: described in words, called in Hermes' format.

The model reads the functions in its system message and calls one by writing

    <tool_call>
    {"name": "…", "arguments": {…}}
    </tool_call>
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from weft.runtime.calling.reading import CALL_BEGIN, CALL_END, call_text

from .chat import ChatMessage

__all__ = ["begins_calls", "knows_tools", "with_tools_described", "writes_ids"]

_DESCRIPTION: Final = (
    "You may call these functions, one JSON object a line:\n{functions}\n"
    f'To call one, reply with {CALL_BEGIN}\n{{{{"name": "its name", "arguments": {{{{…}}}}}}}}\n{CALL_END}'
)


def knows_tools(source: str) -> bool:
    """Whether a chat template writes tools and calls in a form of its own."""
    return re.search(r"\btools\b", source) is not None


def begins_calls(source: str) -> bool:
    """Whether a call, as the template has it or as it is described in words, begins with `CALL_BEGIN`."""
    return CALL_BEGIN in source or not knows_tools(source)


def writes_ids(source: str) -> bool:
    """Whether a chat template may write the ids of calls, which no model writes in its turn."""
    return re.search(r"\bid\b", source) is not None


def with_tools_described(
    turns: Sequence[ChatMessage], tools: Sequence[Mapping[str, Any]]
) -> list[ChatMessage]:
    """The conversation without tools, tool calls and results of tools: all of them as text."""
    plain: list[ChatMessage] = []
    for index, turn in enumerate(turns):
        if turn.role == "tool" and index and turns[index - 1].role == "tool":  # roles may have to alternate
            plain[-1] = ChatMessage("user", (*plain[-1].content, "\n", *_plain(turn).content))
        else:
            plain.append(_plain(turn))
    if not tools:
        return plain
    functions = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    described = _DESCRIPTION.format(functions=functions)
    if plain and plain[0].role == "system":
        return [ChatMessage("system", (*plain[0].content, f"\n\n{described}")), *plain[1:]]
    return [ChatMessage("system", (described,)), *plain]


def _plain(turn: ChatMessage) -> ChatMessage:
    if turn.role == "tool":
        return ChatMessage("user", ("<tool_response>\n", *turn.content, "\n</tool_response>"))
    calls = [
        call_text(call["function"]["name"], call["function"]["arguments"])
        for call in turn.fields.get("tool_calls", ())
    ]
    between = "\n" if calls and any(turn.content) else ""
    return ChatMessage(turn.role, (*turn.content, between + "\n".join(calls)) if calls else turn.content)
