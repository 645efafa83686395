"""Tools for models whose chat template does not know any: described in words, called in Hermes' format.

The model reads the functions in its system message and calls one by writing

    <tool_call>
    {"name": "…", "arguments": {…}}
    </tool_call>
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

__all__ = ["CALL_BEGIN", "CALL_END", "with_tools_described"]

CALL_BEGIN: Final = "<tool_call>"
CALL_END: Final = "</tool_call>"

_DESCRIPTION: Final = (
    "You may call these functions, one JSON object a line:\n{functions}\n"
    f'To call one, reply with {CALL_BEGIN}\n{{{{"name": "its name", "arguments": {{{{…}}}}}}}}\n{CALL_END}'
)


def with_tools_described(
    turns: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The conversation without tools, tool calls and results of tools: all of them as text."""
    plain = [_plain(turn) for turn in turns]
    if not tools:
        return plain
    functions = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    described = _DESCRIPTION.format(functions=functions)
    if plain[0]["role"] == "system":
        return [{"role": "system", "content": f"{plain[0]['content']}\n\n{described}"}, *plain[1:]]
    return [{"role": "system", "content": described}, *plain]


def _plain(turn: dict[str, Any]) -> dict[str, Any]:
    content = turn["content"]
    if turn["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{content}\n</tool_response>"}
    calls = [_call(call["function"]) for call in turn.get("tool_calls", ())]
    return {"role": turn["role"], "content": "\n".join([content, *calls] if content else calls)}


def _call(function: dict[str, Any]) -> str:
    call = {"name": function["name"], "arguments": function["arguments"]}
    return f"{CALL_BEGIN}\n{json.dumps(call, ensure_ascii=False)}\n{CALL_END}"
