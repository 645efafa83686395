"""Tools of a request, and the constraint that forces a call."""

from __future__ import annotations

import json
from typing import Any

import pytest
import xgrammar

from weft.runtime.http.bodies import FunctionBody, ToolBody
from weft.runtime.http.errors import ApiError
from weft.runtime.http.tools import read_tools
from weft.runtime.llm.json_grammar import json_grammar

NODE = {
    "type": "object",
    "properties": {"value": {"$ref": "#/$defs/Value"}, "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
    "required": ["value", "next"],
    "additionalProperties": False,
    "$defs": {"Value": {"type": "integer"}},
}
NAMED = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


def tool(name: str, parameters: dict[str, Any] | None = None) -> ToolBody:
    function = (
        FunctionBody(name=name) if parameters is None else FunctionBody(name=name, parameters=parameters)
    )
    return ToolBody(type="function", function=function)


TOOLS = [tool("insert", NODE), tool("find", NAMED), tool("now")]


def accepts(schema: str, text: str) -> bool:
    """Whether the engine's grammar of the schema allows the text, and lets it end there."""
    info = xgrammar.TokenizerInfo([bytes([byte]) for byte in range(256)], xgrammar.VocabType.RAW)
    compiled = xgrammar.GrammarCompiler(info).compile_grammar(json_grammar(schema))
    matcher = xgrammar.GrammarMatcher(compiled, terminate_without_stop_token=True)
    return matcher.accept_string(text) and matcher.is_terminated()


@pytest.mark.parametrize(
    ("choice", "mode", "names"),
    [
        (None, "auto", ["insert", "find", "now"]),
        ("auto", "auto", ["insert", "find", "now"]),
        ("none", "none", ["insert", "find", "now"]),
        ("required", "required", ["insert", "find", "now"]),
        ({"type": "function", "function": {"name": "find"}}, "required", ["find"]),
    ],
)
def test_choices(choice: Any, mode: str, names: list[str]) -> None:
    found = read_tools(TOOLS, choice, True)
    assert (found.mode, [tool.function.name for tool in found.tools]) == (mode, names)
    assert (found.constraint is None) == (mode != "required")


def test_without_tools_none_may_be_called() -> None:
    assert read_tools([], None, True).mode == read_tools([], "none", True).mode == "none"


@pytest.mark.parametrize(
    ("tools", "choice", "param", "said"),
    [
        ([], "auto", "tool_choice", "there are no 'tools'"),
        ([], "required", "tool_choice", "there are no 'tools'"),
        (TOOLS, "maybe", "tool_choice", "must be 'none', 'auto', 'required' or"),
        (TOOLS, {"type": "function"}, "tool_choice", "must be 'none'"),
        (
            TOOLS,
            {"type": "function", "function": {"name": "x"}},
            "tool_choice",
            "names 'x'; the tools are: 'insert', 'find', 'now'",
        ),
        ([tool("a"), tool("a")], None, "tools[1].function.name", "two tools are called 'a'"),
    ],
)
def test_what_is_refused(tools: list[ToolBody], choice: Any, param: str, said: str) -> None:
    with pytest.raises(ApiError, match=said.replace("[", r"\[")) as caught:
        read_tools(tools, choice, True)
    assert (caught.value.status, caught.value.param) == (400, param)


@pytest.mark.parametrize(
    ("name", "arguments", "allowed"),
    [
        ("insert", {"value": 1, "next": None}, True),
        ("insert", {"value": 1, "next": {"value": 2, "next": None}}, True),
        ("insert", {"value": "1", "next": None}, False),
        ("find", {"name": "x"}, True),
        ("find", {}, False),
        ("now", {}, True),
        ("insert", {"name": "x"}, False),
        ("gone", {}, False),
    ],
)
def test_a_forced_call_is_one_of_a_tool_with_its_own_arguments(
    name: str, arguments: dict[str, Any], allowed: bool
) -> None:
    constraint = read_tools(TOOLS, "required", True).constraint
    assert constraint is not None
    assert accepts(constraint.schema, json.dumps({"name": name, "arguments": arguments})) == allowed


def test_a_named_tool_is_the_only_one() -> None:
    constraint = read_tools(TOOLS, {"type": "function", "function": {"name": "now"}}, True).constraint
    assert constraint is not None
    assert accepts(constraint.schema, '{"name": "now", "arguments": {}}')
    assert not accepts(constraint.schema, '{"name": "find", "arguments": {"name": "x"}}')
