"""Programs that a server is started with: what they are called, and what becomes of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from weft.frontend.cli.problems import UsageProblem
from weft.frontend.cli.registration import (
    Registered,
    load_hosted,
    program_settings,
    registered,
)
from weft.frontend.errors import TraceError
from weft.graph.codec import from_json
from weft.graph.errors import GraphError
from weft.graph.ir import Value
from weft.graph.ops.common import Input, Tool
from weft.graph.types import INTEGER, TEXT, Data
from weft.runtime.config import Settings
from weft.runtime.worker.faults import TaskError

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
def use(x: str, times: int = 2) -> list[str]:
    return [look(x)] * 2

@program
async def unfit(x: str, how: object = object()) -> str:
    return x

@program
def wrong(x: int) -> str:
    return "yes" if x else "no"
"""
_GRAPH: dict[str, Any] = {"version": 1, "nodes": [{"id": 0, "const": {"value": 1}}], "outputs": [{"node": 0}]}
_TOOL: dict[str, Any] = {
    "version": 1,
    "nodes": [{"id": 0, "tool": {"tool": "look"}}],
    "outputs": [{"node": 0}],
}


@pytest.fixture(autouse=True)
def _files() -> None:
    Path("served.py").write_text(_CODE)
    Path("one.json").write_text(json.dumps(_GRAPH))
    Path("graph").write_text(json.dumps(_GRAPH))
    Path("tool.json").write_text(json.dumps(_TOOL))
    Path("bad.json").write_text('{"version": 1, "nodes": [{}]}')


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


def of(sources: dict[str, str], **settings: Any) -> Registered:
    """What becomes of programs by these names."""
    return registered(Settings(programs={name: Path(source) for name, source in sources.items()}, **settings))


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
    found = of({"a": "one.json", "b": "served.py:tell", "c": "graph"})
    assert found.graphs.keys() == {"b"}
    assert found.hosted is None
    graph = from_json(found.graphs["b"])
    assert [node.op.label() for node in graph] == ["input", "input", "generate"]


def test_programs_without_a_graph_of_their_own_become_one_call() -> None:
    found = of({"tell": "served.py:tell", "a": "served.py:grow", "b": "served.py:use"})
    assert found.hosted
    assert found.hosted.sources == {"a": "served.py:grow", "b": "served.py:use"}
    topic, call = from_json(found.graphs["a"])
    assert topic.op == Input("topic", TEXT)
    assert call.op == Tool("a", TEXT, "server")
    assert call.args == {"topic": Value(0)}
    assert call.location.startswith("served.py:")
    x, times, call = from_json(found.graphs["b"])
    assert x.op == Input("x", TEXT)
    assert times.op == Input("times", INTEGER, "2")
    assert isinstance(call.op, Tool)
    assert call.op.result == Data('{"items":{"type":"string"},"type":"array"}')


def test_what_a_program_imports_may_lie_where_tools_may() -> None:
    Path("lib").mkdir()
    Path("lib/beside_tools.py").write_text("WORD = 'hey'\n")
    Path("away.py").write_text("from beside_tools import WORD\n" + _CODE)
    assert of({"p": "away.py:grow"}, import_paths=[Path("lib")]).hosted


def test_a_worker_loads_them_as_tools() -> None:
    tool = load_hosted("b", "served.py:use")
    assert (tool.name, tool.is_async, tool.result) == (
        "b",
        True,
        Data('{"items":{"type":"string"},"type":"array"}'),
    )
    assert json.loads(tool.parameters)["required"] == ["x"]
    assert tool.bind({"x": "y", "times": 3}) == {"x": "y", "times": 3}
    with pytest.raises(TaskError, match="'b': times: Input should be a valid integer"):
        tool.bind({"x": "y", "times": "often"})


@pytest.mark.parametrize(
    ("source", "error", "said"),
    [
        (
            "served.py:wrong",
            TraceError,
            "program 'p' cannot be served by name: served.py:26: using it as a condition",
        ),
        ("served.py:unfit", TraceError, "program 'p' cannot be served by name: .*default argument 'how'"),
        ("tool.json", UsageProblem, "its tool 'look' runs in the client's process; name the tool in the"),
        ("served.py:gone", UsageProblem, "there is no 'gone' in 'served.py'"),
        ("gone.json", UsageProblem, "gone.json: cannot be read"),
        ("bad.json", GraphError, "bad.json: %0 node: has no operation"),
        ("nope", UsageProblem, "there is no bundled app 'nope'"),
    ],
)
def test_what_cannot_be_served_by_name(source: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        of({"p": source})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
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
