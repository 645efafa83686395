from __future__ import annotations

import importlib
import json
import signal
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from weft.frontend.cli.output import ERRORS

Weft = Callable[..., Result]
Bundle = Callable[[str], None]
Command = Callable[..., "subprocess.Popen[str]"]

_PROGRAMS = """
import time
from weft import Passage, Static, gen, program, search, tool

@program
def find(question: str, k: int = 1, index: Static[str] = "notes") -> list[Passage]:
    return search(index, question, k=k)

@program
def echo(text: str, times: int = 1) -> dict:
    return {"text": text, "times": times}

@program
async def divide(by: int) -> float:
    return 1 / by

@program
def tell(topic: str) -> str:
    return gen(f"Tell {topic}")

@program
def branch(topic: str) -> str:
    return "a" if topic else "b"

@tool
def slow(x: str) -> str:
    print("the tool runs", flush=True)
    time.sleep(60)
    return x

@tool
def fails() -> str:
    raise ValueError("out of order")

@program
def crash() -> str:
    return fails()

@program
def nap() -> str:
    return slow("x")
"""

_APP = """
from weft import Document, Passage, ingest, program, search

@program
def fill(texts: list[Document]) -> dict:
    return ingest("INDEX", texts)

@program
def find(question: str) -> list[Passage]:
    return search("INDEX", question, k=1)

PROGRAM = find

def prepare(client):
    fill.using(client)([Document("owls", "Owls hunt at night.", "owls.md")])
"""

_GRAPH = {
    "version": 1,
    "name": "greeting",
    "nodes": [
        {"id": 0, "input": {"name": "who", "type": {"text": {}}}},
        {"id": 1, "args": {"who": {"node": 0}}, "format": {"parts": [{"text": "Hello "}, {"slot": "who"}]}},
    ],
    "outputs": [{"node": 1}],
}


@pytest.fixture(autouse=True)
def _files() -> None:
    Path("p.py").write_text(_PROGRAMS)
    Path("torn.py").write_text("def f(:\n")
    Path("graph.json").write_text(json.dumps(_GRAPH))
    Path("notes").mkdir()
    Path("notes", "cats.md").write_text("Cats sleep for most of the day.\n")
    Path("notes", "rain.txt").write_text("Rain fell on Tuesday.\n")


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """Adds an app to the bundled ones; it searches an index of its own name, which it has to fill first."""
    apps = importlib.import_module("weft.apps")
    monkeypatch.setattr(apps, "__path__", [*apps.__path__, str(tmp_path / "apps")])

    def add(name: str) -> None:
        (tmp_path / "apps" / name).mkdir(parents=True)
        (tmp_path / "apps" / name / "__init__.py").write_text(_APP.replace("INDEX", name))

    return add


def _json(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


# ---- without a server


def test_help_names_every_command(weft: Weft) -> None:
    result = weft("--help")
    assert result.exit_code == 0
    for name in ("demo", "run", "serve", "worker", "submit", "explain", "runs", "models", "index"):
        assert f" {name} " in result.stdout
        assert weft(name, "--help").exit_code == 0


def test_version(weft: Weft) -> None:
    assert weft("--version").stdout == f"weft {version('weft')}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "nope"), "there is no bundled app 'nope'"),
        (("run", "p.py:echo", "-i", "txt=a"), "there is no input 'txt'; there are: text, times"),
        (("run", "p.py:echo", "--config", "gone.toml"), "configuration file 'gone.toml' does not exist"),
        (("run", "p.py:echo", "--server", "x"), "server: an address is 'HOST:PORT'"),
        (("run", "p.py:echo", "--server", "127.0.0.1:1"), "no weft server answers at '127.0.0.1:1'"),
        (("runs", "--cancel"), "--cancel and --trace need a RUN"),
        (
            ("runs", "--state", "over"),
            "--state is one of running, waiting, done, failed, cancelled, not 'over'",
        ),
        (("submit", "gone.json"), "gone.json: cannot be read: No such file or directory"),
        (("submit", "graph.json", "--detach"), "--detach needs a --server"),
        (("submit", "graph.json", "-i", "whom=x"), "there is no input 'whom'; there are: who"),
        (("index", "notes", "gone"), "folder 'gone' does not exist"),
        (("explain", "rag", "--graph", "--mermaid"), "only one of --html, --mermaid, --graph and --json"),
        (
            ("worker", "--kind", "llm", "--connect", "127.0.0.1:1", "--model", "a", "--model", "b"),
            "a worker runs one model, not 2",
        ),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(
    weft: Weft, arguments: tuple[str, ...], message: str
) -> None:
    result = weft(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "graph.json: "),
        ('{"version": 1, "nodes": [{"id": 0, "nonsense": {}}]}', "nonsense"),
        ('{"version": 9, "nodes": []}', "version"),
        ('{"version": 1, "nodes": [], "outputs": [{"node": 3}]}', "%3"),
    ],
)
def test_a_malformed_graph_is_refused_without_a_server(weft: Weft, text: str, message: str) -> None:
    Path("graph.json").write_text(text)
    result = weft("submit", "graph.json")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: graph.json: ")
    assert message in result.stderr


def test_a_graph_that_is_too_large_is_not_read(weft: Weft) -> None:
    with Path("graph.json").open("wb") as file:
        file.truncate(50 << 20)
    result = weft("submit", "graph.json")
    assert result.exit_code == 2
    assert "52428800 bytes are too many for a graph; at most 16777216" in result.stderr


def test_debug_shows_where_an_error_arose(weft: Weft) -> None:
    assert weft("run", "nope").exception.__class__ is SystemExit
    assert type(weft("--debug", "run", "nope").exception).__name__ == "UsageProblem"


def test_the_graph_of_a_program_can_be_written_to_a_file(weft: Weft) -> None:
    graph = _json(weft("explain", "p.py:find", "--graph", "-i", "index=other"))
    assert [node["search"]["index"] for node in graph["nodes"] if "search" in node] == ["other"]


# ---- with a server


def test_run_writes_the_result(weft: Weft, server: str) -> None:
    arguments = ("run", "p.py:echo", "-i", "text=7", "-i", "times=7", "--server", server)
    assert json.loads(weft(*arguments).stdout) == {"text": "7", "times": 7}
    found = _json(weft(*arguments, "--json"))
    assert found["state"] == "done"
    assert found["result"] == {"text": "7", "times": 7}
    assert found["run"]


def test_a_server_has_its_own_models(weft: Weft, server: str) -> None:
    result = weft("run", "p.py:echo", "-i", "text=hi", "--model", "/models/other", "--server", server)
    assert result.exit_code == 2
    assert "--model cannot be used with the server" in result.stderr


def test_run_streams(weft: Weft, server: str) -> None:
    result = weft("run", "p.py:echo", "-i", "text=a", "--stream", "--json", "--server", server)
    assert _json(result) == {"piece": {"text": "a", "times": 1}}


def test_run_writes_a_trace(weft: Weft, server: str) -> None:
    result = weft("run", "p.py:echo", "-i", "text=a", "--trace", "t.json", "--server", server)
    assert result.exit_code == 0
    assert "traceEvents" in json.loads(Path("t.json").read_text())


def test_run_streams_and_writes_a_trace(weft: Weft, echo_server: str) -> None:
    arguments = (
        "run",
        "p.py:tell",
        "-i",
        "topic=a",
        "--stream",
        "--trace",
        "t.json",
        "--server",
        echo_server,
    )
    result = weft(*arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout == "[<user>Tell a<assistant>]\n"
    assert json.loads(Path("t.json").read_text())["traceEvents"] == []
    pieces = [json.loads(line)["piece"] for line in weft(*arguments, "--json").stdout.splitlines()]
    assert pieces == ["[<u", "ser>Tell a<assistant>]"]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("run", "p.py:echo"), 2, "missing a required argument: 'text'"),
        (("run", "p.py:echo", "-i", "text=a", "-i", "times=x"), 2, "argument 'times' must be int"),
        (("run", "p.py:divide", "-i", "by=0"), 1, "ZeroDivisionError: division by zero"),
        (("run", "torn.py:f"), 1, "(torn.py, line 1)\n"),
        (("run", "p.py:find", "-i", "question=a", "-i", "index=nowhere"), 2, "unknown index 'nowhere'"),
        (("run", "rag", "-i", "question=a"), 2, ""),
        (("submit", "graph.json"), 2, "input 'who' (text) is missing"),
        (("runs", "nope"), 1, "there is no run 'nope'"),
        (("runs", "nope", "--cancel"), 1, "nope"),
    ],
)
def test_a_failure_is_one_line_and_a_status(
    weft: Weft, server: str, arguments: tuple[str, ...], status: int, message: str
) -> None:
    result = weft(*arguments, "--server", server)
    assert result.exit_code == status, result.output
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_error_of_the_users_code_names_its_line(weft: Weft, server: str) -> None:
    result = weft("run", "p.py:divide", "-i", "by=0", "--server", server)
    line = _PROGRAMS.splitlines().index("    return 1 / by") + 1
    assert f"p.py:{line})" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("p.py:echo",),
            "error: program 'echo': missing a required argument: 'text'; it takes text, times\n",
        ),
        (
            ("p.py:tell", "--stream"),
            "error: program 'tell': missing a required argument: 'topic'; it takes topic\n",
        ),
    ],
)
def test_an_error_of_the_command_line_names_no_line(
    weft: Weft, server: str, arguments: tuple[str, ...], message: str
) -> None:
    assert weft("run", *arguments, "--server", server).stderr == message


def test_an_error_of_a_programs_code_names_its_line(weft: Weft, server: str) -> None:
    result = weft("run", "p.py:branch", "-i", "topic=x", "--server", server)
    line = _PROGRAMS.splitlines().index('    return "a" if topic else "b"') + 1
    assert result.stderr.startswith(f"error: p.py:{line}: using it as a condition")


# ---- errors for programs to read


@pytest.mark.parametrize(
    ("arguments", "status", "error"),
    [
        (("run", "nope"), 2, {"code": "usage"}),
        (("run", "p.py:echo", "--nonsense"), 2, {"code": "usage", "message": "No such option: --nonsense"}),
        (("run",), 2, {"code": "usage", "message": "Missing argument 'TARGET'."}),
        (("run", "chat"), 2, {"code": "usage"}),
        (("model", "eval"), 2, {"code": "usage"}),
        (("run", "p.py:echo", "--config", "gone.toml"), 2, {"code": "configuration"}),
        (("run", "p.py:echo", "--server", "127.0.0.1:1"), 2, {"code": "unavailable"}),
        (("submit", "graph.json", "-i", "whom=x"), 2, {"code": "usage"}),
        (("index", "notes", "gone"), 2, {"code": "documents"}),
        (("runs", "--cancel"), 2, {"code": "usage", "message": "--cancel and --trace need a RUN"}),
    ],
)
def test_json_has_the_error_on_standard_output(
    weft: Weft, arguments: tuple[str, ...], status: int, error: dict[str, str]
) -> None:
    _check_error(weft(*arguments, "--json"), status, error)


@pytest.mark.parametrize(
    ("arguments", "status", "error"),
    [
        (("run", "p.py:echo", "-i", "text=a", "-i", "times=x"), 2, {"code": "invalid"}),
        (
            ("run", "p.py:find", "-i", "question=a", "-i", "index=no"),
            2,
            {"code": "invalid", "program": "find"},
        ),
        (("run", "p.py:find", "-i", "question=a", "-i", "index=no", "--stream"), 2, {"code": "invalid"}),
        (("run", "p.py:divide", "-i", "by=0"), 1, {"code": "exception"}),
        (("run", "p.py:crash"), 1, {"code": "tool_failed", "program": "crash"}),
        (("explain", "p.py:find", "-i", "index=no"), 2, {"code": "invalid"}),
        (("runs", "nope"), 1, {"code": "not_found", "message": "there is no run 'nope'"}),
    ],
)
def test_json_has_the_error_of_a_run_on_standard_output(
    weft: Weft, server: str, arguments: tuple[str, ...], status: int, error: dict[str, str]
) -> None:
    _check_error(weft(*arguments, "--json", "--server", server), status, error)


def test_json_has_the_cause_of_a_failed_tool(weft: Weft, server: str) -> None:
    error = json.loads(weft("run", "p.py:crash", "--json", "--server", server).stdout)["error"]
    assert error["cause"].startswith("ValueError: out of order (")


def _check_error(result: Result, status: int, error: dict[str, str]) -> None:
    assert result.exit_code == status, result.output
    found = json.loads(result.stdout)["error"]
    assert found["message"] in result.stderr
    assert found | error == found


# ---- bundled apps


def test_what_a_bundled_app_needs_is_prepared(weft: Weft, server: str, bundle: Bundle) -> None:
    bundle("zoo")
    result = weft("run", "zoo", "-i", "question=When do owls hunt?", "--server", server)
    assert result.stderr == ""
    (passage,) = json.loads(result.stdout)
    assert passage["text"].strip() == "Owls hunt at night."


def test_explain_prepares_a_bundled_app_too(weft: Weft, server: str, bundle: Bundle) -> None:
    bundle("den")
    assert 'search("den"' in weft("explain", "den", "--server", server).stdout


def test_a_status_line_tells_of_the_preparation(
    weft: Weft, server: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle("nest")
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes it for a terminal
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(ERRORS, "is_interactive", True)
    arguments = ("run", "nest", "-i", "question=owls", "--server", server)
    assert "preparing nest" in weft(*arguments).stderr
    result = weft(*arguments, "--json")
    assert result.stderr == ""
    assert _json(result)["state"] == "done"


def test_a_folder_is_indexed_and_searched(weft: Weft, server: str) -> None:
    first = _json(weft("index", "pets", "notes", "--server", server, "--json"))
    assert first == {
        "index": "pets",
        "documents": 2,
        "passages_added": 2,
        "passages_replaced": 0,
        "skipped": {},
    }
    again = weft("index", "pets", "notes", "--server", server)
    assert again.stdout == "index 'pets': 2 documents, 0 passages added, 0 replaced\n"
    Path("notes/b\udcffd.md").write_text("Its name is no text.")
    skipped = _json(weft("index", "pets", "notes", "--server", server, "--json"))["skipped"]
    assert skipped == {r"b\udcffd.md": r"file 'b\udcffd.md' has a name that is not UTF-8; rename it"}
    arguments = ("-i", "question=How long do cats sleep?", "-i", "index=pets", "--server", server)
    (passage,) = json.loads(weft("run", "p.py:find", *arguments).stdout)
    assert passage["text"].strip() == "Cats sleep for most of the day."


def test_models_lists_what_the_server_has(weft: Weft, server: str) -> None:
    weft("index", "listed", "notes", "--server", server)
    expected = {"name": "listed", "passages": 2, "embedder": "weft-hash-v1"}
    while expected not in (found := _json(weft("models", "--server", server, "--json")))["indexes"]:
        time.sleep(0.05)  # workers report at most once a second
    assert found["models"] == []
    assert [embedder["name"] for embedder in found["embedders"]] == ["weft-hash-v1"]
    assert [worker["engines"] for worker in found["workers"]] == ["embed index"]
    text = weft("models", "--server", server).stdout
    assert "weft-hash-v1" in text
    assert "built-in" in text


def test_a_graph_from_a_file_runs_detached_or_not(weft: Weft, server: str) -> None:
    arguments = ("submit", "graph.json", "-i", "who=World", "--server", server)
    assert weft(*arguments).stdout == "Hello World\n"
    assert _json(weft(*arguments, "--json"))["result"] == "Hello World"
    run = weft(*arguments, "--detach").stdout.strip()
    shown = _json(weft("runs", run, "--server", server, "--json"))
    assert (shown["run"], shown["program"], shown["state"]) == (run, "greeting", "done")
    assert [stat["label"] for stat in shown["stats"]] == ["%1 format"]
    assert "%1 format" in weft("runs", run, "--server", server).stdout
    listed = _json(weft("runs", "--server", server, "--json"))
    assert run in [item["run"] for item in listed]
    assert run in weft("runs", "--server", server).stdout


def test_explain_shows_each_pass(weft: Weft, server: str) -> None:
    weft("index", "notes", "notes", "--server", server)
    passes = _json(weft("explain", "p.py:find", "--server", server, "--json"))["passes"]
    assert passes[0]["name"] == "as written"
    assert {"lower", "prune", "dedupe"} <= {step["name"] for step in passes}
    assert all("rule" in note for step in passes for note in step["changes"] + step["refusals"])
    shown = weft("explain", "p.py:find", "--server", server).stdout
    assert 'search("notes"' in shown
    assert "== split_prefill: " in shown
    assert "```mermaid\nflowchart" in weft("explain", "p.py:find", "--server", server, "--mermaid").stdout


def test_ctrl_c_cancels_the_run(weft: Weft, command: Command, server: str) -> None:
    with command("run", "p.py:nap", "--server", server) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "the tool runs\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130
    assert errors == ""
    until = time.monotonic() + 20
    while (state := _state(weft, server, "nap")) == "running" and time.monotonic() < until:
        time.sleep(0.1)  # the server hears of it when the stream breaks
    assert state == "cancelled"


def _state(weft: Weft, server: str, program: str) -> str:
    runs = _json(weft("runs", "--server", server, "--json"))
    return next(str(run["state"]) for run in runs if run["program"] == program)
