from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

Weft = Callable[..., Result]

_PROGRAMS = """
from weft import Passage, Static, program, search

@program
def find(question: str, index: Static[str] = "notes") -> list[Passage]:
    return search(index, question, k=1)

@program
async def choose(question: str) -> str:
    found = await search("notes", question, k=1)
    return found[0].text
"""


@pytest.fixture(autouse=True)
def _files(weft: Weft, server: str) -> None:
    Path("q.py").write_text(_PROGRAMS)
    Path("notes").mkdir()
    Path("notes", "cats.md").write_text("Cats sleep for most of the day.\n")
    assert weft("index", "notes", "notes", "--server", server).exit_code == 0


@pytest.fixture
def run(weft: Weft, server: str) -> str:
    """A run that is over."""
    result = weft("run", "q.py:find", "-i", "question=cats", "--server", server, "--json")
    return str(_json(result)["run"])


def _json(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_program_is_explained_in_each_form(weft: Weft, server: str) -> None:
    arguments = ("explain", "q.py:find", "--server", server)
    assert "== the final graph" in weft(*arguments).stdout
    assert {"passes", "predictions"} <= set(_json(weft(*arguments, "--json")))
    assert "```mermaid\nflowchart" in weft(*arguments, "--mermaid").stdout
    result = weft(*arguments, "--html", "page.html")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "page: page.html (open it in a browser)\n"
    assert "<title>How program find is optimized</title>" in Path("page.html").read_text()


def test_a_run_is_explained_in_each_form(weft: Weft, server: str, run: str) -> None:
    arguments = ("runs", "explain", run, "--server", server)
    assert weft(*arguments).stdout.startswith(f"run {run} of 'find': done after ")
    data = _json(weft(*arguments, "--json"))
    assert sum(data["blame"].values()) == pytest.approx(data["milliseconds"])
    assert {"embed", "index"} <= {node["kind"] for node in data["nodes"]}
    assert data["critical_path"][-1]["label"].startswith("%")
    assert weft(*arguments, "--mermaid").stdout.startswith("flowchart TD\n")
    assert weft(*arguments, "--html", "page.html").exit_code == 0
    assert f"<title>Run {run} of program find</title>" in Path("page.html").read_text()


def test_the_page_of_a_run_is_written_after_it(weft: Weft, server: str) -> None:
    arguments = ("run", "q.py:find", "-i", "question=cats", "--server", server, "--explain", "page.html")
    result = weft(*arguments)
    assert json.loads(result.stdout)[0]["text"].startswith("Cats sleep")
    assert result.stderr == "page: page.html (open it in a browser)\n"
    assert "Where the time went" in Path("page.html").read_text()


def test_the_code_of_an_async_program_takes_time_too(weft: Weft, server: str) -> None:
    result = weft("run", "q.py:choose", "-i", "question=cats", "--server", server, "--json")
    data = _json(weft("runs", "explain", _json(result)["run"], "--server", server, "--json"))
    assert data["blame"]["client"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("runs", "explain"), "which run? Write `weft runs explain RUN`"),
        (("runs", "explain", "a", "b"), "one RUN at a time, not 'explain a b'"),
        (("runs", "a", "--html", "x.html"), "--html and --mermaid are for `weft runs explain RUN`"),
        (("runs", "--mermaid"), "--html and --mermaid are for `weft runs explain RUN`"),
        (
            ("runs", "explain", "a", "--cancel"),
            "--cancel and --trace cannot be used with `weft runs explain`",
        ),
        (("runs", "explain", "a", "--html", "x", "--json"), "only one of --html, --mermaid and --json"),
        (("explain", "q.py:find", "--html", "x", "--json"), "only one of --html, --mermaid, --graph"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(weft: Weft, arguments: tuple[str, ...], message: str) -> None:
    result = weft(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {message}")


def test_an_unknown_run_cannot_be_explained(weft: Weft, server: str) -> None:
    result = weft("runs", "explain", "nope", "--server", server)
    assert result.exit_code == 1
    assert "nope" in result.stderr


def test_a_page_that_cannot_be_written_is_one_line(weft: Weft, server: str, run: str) -> None:
    result = weft("runs", "explain", run, "--html", "no/page.html", "--server", server)
    assert result.exit_code == 2
    assert result.stderr == "error: the page cannot be written to 'no/page.html': No such file or directory\n"
