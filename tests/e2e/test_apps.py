"""The bundled apps, as their READMEs say: the commands, and what they write."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from weft.apps import mcp_agent
from weft.frontend.cli.main import app
from weft.frontend.cli.target import bundled_apps
from weft.frontend.client import connect
from weft.frontend.client.events import Interrupted
from weft.runtime.config import REFERENCE_MODEL

from .conftest import Server, eventually, weft

_APPS = Path(__file__).resolve().parents[2] / "apps"
_CONSOLE = re.compile(r"```console\n(.*?)```", re.DOTALL)
_COMMAND = re.compile(r"^\$ weft ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)


def _commands() -> Iterator[object]:
    """The commands of all READMEs, each with what it writes; nothing if that means nothing."""
    for name in bundled_apps():
        text = (_APPS / name / "README.md").read_text("utf-8")
        for block in _CONSOLE.findall(text):
            for command, output in _COMMAND.findall(block):
                yield pytest.param(command.replace("\\\n", ""), output, id=name)


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Iterator[CliRunner]:
    monkeypatch.chdir(_APPS.parent)  # the files that commands name are in the repository
    yield CliRunner()
    connect(None)


@pytest.mark.parametrize(("command", "output"), list(_commands()))
def test_a_command_of_a_readme_writes_what_it_says(
    server: Server, runner: CliRunner, command: str, output: str
) -> None:
    result = runner.invoke(app, [*shlex.split(command), "--server", server.address])
    assert result.exit_code == 0, result.output
    assert result.stdout.strip()
    if output:
        assert result.stdout == output


def test_a_person_changes_the_plan_of_a_detached_run(server: Server) -> None:
    question = "question=Who leads Postos Partners, and where was Samuel Bufur born?"
    started = server.weft("run", "plan_and_execute", "-i", question, "-i", "approve=true", "--detach")
    run = started.stdout.strip()
    eventually(lambda: run in server.weft("runs", "--state", "waiting").stdout)
    plan = ["Who leads Postos Partners as chief executive?", "Where was Samuel Bufur born?"]
    resumed = server.weft("runs", "resume", run, "--value", json.dumps(plan))
    assert resumed.returncode == 0, resumed.stderr
    report = server.client.run(run).result()
    assert [finding["step"] for finding in report["findings"]] == plan
    assert [finding["answer"].split(" [")[0] for finding in report["findings"]] == ["Samuel Bufur", "Hujudru"]


@pytest.mark.parametrize(
    ("answers", "expected"), [((True, True), "Samuel Bufur"), ((False, False), "not found")]
)
def test_an_agent_does_without_the_calls_that_a_person_refuses(
    server: Server, answers: tuple[bool, ...], expected: str
) -> None:
    run = mcp_agent.agent.using(server.client).submit("Who is the mayor of Fiba?", approve="all")
    left, asked = list(answers), []
    for event in run.events():
        if isinstance(event, Interrupted):
            asked.append(event.value)
            run.resume(left.pop(0), node=event.node)
    assert run.result() == expected
    assert asked[0]["tool"] == "search"
    assert asked[0]["arguments"] == {"query": "Fiba mayor"}


def test_a_conversation_in_the_terminal(server: Server, runner: CliRunner) -> None:
    typed = "What is Sahus' industry?\nWhere is its main office?\n\n"
    result = runner.invoke(app, ["run", "chat", "--server", server.address], input=typed)
    assert result.exit_code == 0, result.output
    assert re.fullmatch(r"> timber \[\d+\]\n> Hujudru \[\d+\]\n> ", result.stdout)


def test_an_app_runs_with_another_model_and_without_a_server(tmp_path: Path) -> None:
    question = "question=Where is Sahus' main office?"
    result = weft("run", "rag", "-i", question, "--model", f"mine={REFERENCE_MODEL}", cwd=tmp_path)
    assert result.stdout == "Hujudru [5]\n", result.stderr
