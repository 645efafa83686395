"""Programs that a server is started with: what they are called, and what becomes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from weft.frontend.cli.problems import UsageProblem
from weft.frontend.cli.registration import lowered, program_settings
from weft.frontend.errors import TraceError
from weft.graph.codec import from_json
from weft.graph.errors import GraphError

from .conftest import Weft

_CODE = """
from weft import gen, program, tool

@program
def tell(topic: str, style: str = "short") -> str:
    return gen(f"Tell {topic} in {style}")

@program
async def grow(topic: str) -> str:
    return await gen(topic)

@tool
def look(x: str) -> str:
    return x

@program
def use(x: str) -> str:
    return look(x)
"""
_GRAPH: dict[str, Any] = {"version": 1, "nodes": [{"id": 0, "const": {"value": 1}}], "outputs": [{"node": 0}]}
_MOST = 10_000


@pytest.fixture(autouse=True)
def _files() -> None:
    Path("served.py").write_text(_CODE)
    Path("one.json").write_text(json.dumps(_GRAPH))
    Path("graph").write_text(json.dumps(_GRAPH))
    Path("bad.json").write_text('{"version": 1, "nodes": [{}]}')


def test_programs_are_named_after_files_and_functions_unless_said_otherwise() -> None:
    given = ["one.json", "served.py:tell", "rag", "other=served.py:tell", "g=graph"]
    assert program_settings(given) == {
        "one": "one.json",
        "tell": "served.py:tell",
        "rag": "rag",
        "other": "served.py:tell",
        "g": "graph",
    }
    with pytest.raises(UsageProblem, match=r"two programs are called 'one': .* NAME=graph"):
        program_settings(["one.json", "one=graph"])


def test_python_programs_become_graphs() -> None:
    texts = lowered({"a": "one.json", "b": "served.py:tell", "c": "graph"}, _MOST)
    assert texts.keys() == {"b"}
    graph = from_json(texts["b"])
    assert [node.op.label() for node in graph] == ["input", "input", "generate"]


@pytest.mark.parametrize(
    ("source", "error", "said"),
    [
        ("served.py:grow", TraceError, "program 'p' cannot be served by name: .*'grow' is async"),
        ("served.py:use", UsageProblem, "its tool 'look' runs in the client's process; name the tool in the"),
        ("served.py:gone", UsageProblem, "there is no 'gone' in 'served.py'"),
        ("gone.json", UsageProblem, "gone.json: cannot be read"),
        ("bad.json", GraphError, "bad.json: %0 node: has no operation"),
        ("nope", UsageProblem, "there is no bundled app 'nope'"),
    ],
)
def test_what_cannot_be_served_by_name(source: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        lowered({"p": source}, _MOST)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--program", "served.py:grow"], "is async"),
        (["--program", "gone.json"], "gone.json: cannot be read"),
        (["--http", "unix:x"], "arguments: http: an HTTP address is 'HOST:PORT', not 'unix:x'"),
        (["--http", "8000"], "arguments: http: an HTTP address is 'HOST:PORT'"),
        (["--api-key", ""], "arguments: api_key: Value should have at least 1"),
        (["--program", "reference=one.json"], "a model and a program are called 'reference'"),
    ],
)
def test_a_server_is_not_started_for_what_is_wrong(weft: Weft, arguments: list[str], said: str) -> None:
    result = weft("serve", "--listen", "127.0.0.1:0", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
