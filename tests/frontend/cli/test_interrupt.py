"""Runs that ask a person: answered at the terminal, from another command, or by a client."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from typer.testing import CliRunner, Result

from weft import Client, ProgramError, interrupt, program
from weft.frontend.cli import answers
from weft.frontend.cli.main import app
from weft.frontend.cli.output import ERRORS
from weft.frontend.client import connect
from weft.frontend.client.events import Event, Interrupted
from weft.frontend.errors import Rejected

_CODE = """
from weft import interrupt, program

@program
def book(seats: int) -> str:
    row = interrupt({"seats": seats}, type=int)
    return f"{seats} seats in row {row}, {interrupt(f'Who sits in {row}?')}"


@program
def compare() -> str:
    return f"{interrupt('left?')} {interrupt('right?')}"
"""
SEATS = ("run", "p.py:book", "-i", "seats=2")

Weft = Callable[..., Result]


@pytest.fixture
def weft(server: str) -> Any:
    """Runs a command against the server; `typed` is what a person types."""
    Path("p.py").write_text(_CODE)
    runner = CliRunner()

    def run(*arguments: str, typed: str = "") -> Result:
        return runner.invoke(app, [*arguments, "--server", server], input=typed)

    yield run
    connect(None)


def eventually(found: Callable[[], Any]) -> Any:
    until = time.monotonic() + 20
    while not (value := found()):
        assert time.monotonic() < until
        time.sleep(0.02)
    return value


def test_the_person_at_the_terminal_is_asked_until_the_answer_fits(weft: Weft) -> None:
    result = weft(*SEATS, typed="first\n7\nOlga\n")
    assert result.stdout == "2 seats in row 7, Olga\n", result.output
    assert '{\n  "seats": 2\n}\n' in result.stderr
    assert "the answer must be integer, not string 'first'" in result.stderr
    assert "Who sits in 7?" in result.stderr


def test_a_detached_run_waits_and_is_answered_by_other_commands(weft: Weft, server: str) -> None:
    run = weft("run", "p.py:compare", "--detach").stdout.strip()
    listed = json.loads(weft("runs", "--state", "waiting", "--json").stdout)
    (waiting,) = [item for item in listed if item["run"] == run]
    nodes = {asked["value"]: str(asked["node"]) for asked in waiting["waiting"]}
    assert nodes.keys() == {"left?", "right?"}
    shown = weft("runs", run).stdout
    assert "waiting" in shown
    assert f"node {nodes['left?']} asks, and takes an answer of" in shown

    assert "waits for several answers; name a node" in weft("runs", "resume", run, "--value", "7").output
    assert weft("runs", "resume", run, "--value", "7", "--node", nodes["right?"]).exit_code == 0
    assert json.loads(weft("runs", "resume", run, "--value", "so", "--json").stdout)["run"] == run
    shown = json.loads(weft("runs", run, "--json").stdout)
    assert (shown["state"], shown["waiting"]) == ("done", [])
    connect(None)
    assert Client(server).run(run).result() == "so 7"


def test_a_client_that_was_not_there_at_the_start_resumes_a_run(server: str) -> None:
    @program
    def ask(question: str) -> str:
        return f"You say {interrupt(question)}"

    started = ask.using(Client(server)).submit("Well?", detached=True)
    other = Client(server)
    run = other.run(started.id)
    (asked,) = eventually(run.interrupts)
    assert isinstance(asked, Interrupted)
    assert (asked.value, json.loads(asked.type)) == ("Well?", {"type": "string"})
    assert run.status == "waiting"
    with pytest.raises(ProgramError, match="must be a text, not 3"):
        run.resume(3)
    assert run.status == "waiting"
    run.resume("yes")
    assert run.result() == started.result() == "You say yes"
    assert run.interrupts() == []
    with pytest.raises(ProgramError, match="does not wait for anybody; it is done"):
        run.resume("again")
    other.close()


def test_an_async_program_awaits_an_answer(server: str) -> None:
    @program
    async def count(limit: int) -> list[int]:
        found: list[int] = []
        while len(found) < limit:
            found.append(await interrupt(f"number {len(found)}?", type=int))
        return found

    run = count.using(Client(server)).submit(2)
    for asked in run.events():
        if isinstance(asked, Interrupted):
            run.resume(4 + asked.node, node=asked.node)
    first, second = run.result()
    assert 4 < first < second


def test_who_answers_what_is_no_longer_asked_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Interrupted(0.0, 1, "%1 interrupt", "now?", '{"type": "string"}', "")

    class Run:
        """It has given up the wait meanwhile."""

        def interrupts(self) -> list[Interrupted]:
            return []

        def resume(self, value: str, *, node: int) -> None:
            raise Rejected("it does not wait for anybody")

        def events(self) -> list[Event]:
            return [asked]

    typed = iter(["late"])
    monkeypatch.setattr(ERRORS, "input", lambda *_, **__: next(typed))
    assert list(answers.answered(cast(Any, Run()), alone=True)) == [asked]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("runs", "resume"), "which run? Write `weft runs resume RUN`"),
        (("runs", "resume", "r-1"), "`weft runs resume RUN` and --value go together"),
        (("runs", "r-1", "--value", "3"), "`weft runs resume RUN` and --value go together"),
        (("runs", "r-1", "--node", "3"), "--node is for `weft runs resume RUN`"),
        (("runs", "resume", "r-1", "--value", "3", "--cancel"), "cannot be used with `weft runs resume`"),
        ((*SEATS, "--detach", "--stream"), "--detach cannot be used with --stream"),
    ],
)
def test_what_cannot_be_is_told(weft: Weft, arguments: tuple[str, ...], problem: str) -> None:
    result = weft(*arguments)
    assert result.exit_code == 2
    assert problem in " ".join(result.output.split())


def test_where_nobody_is_left_to_answer_the_run_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("p.py").write_text(_CODE)
    Path("weft.toml").write_text("models = []\n")
    result = CliRunner().invoke(app, list(SEATS), input="7\n")
    connect(None)
    assert result.exit_code == 2
    assert "there is no more input to read one from" in result.stderr
