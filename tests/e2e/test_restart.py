"""Servers that are killed and started again: detached runs go on, and nothing is done twice."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest

from weft import ProgramError, gen, interrupt, program, server_tool
from weft.frontend.errors import Unavailable

from ..postgres import Postgres
from .conftest import WEFT, Server, eventually, serving

TOOLS = """
import time
from pathlib import Path

from weft import tool

CALLS = Path(__file__).with_name("calls.txt")


def note(what: str) -> None:
    with CALLS.open("a") as calls:
        calls.write(what + "\\n")


@tool
def send(text: str) -> str:
    note(f"send {text!r}")
    return f"sent {len(text)} characters"


@tool
def linger(text: str) -> str:
    note("linger")
    time.sleep(600)
    return text
"""
send = server_tool("send", result=str)
linger = server_tool("linger", result=str)


@program
def approved(topic: str) -> str:
    """Writes, sends, asks, and writes on."""
    text = gen(f"Passage: {topic}", max_tokens=8, temperature=1.0, seed=11)
    answer = interrupt(send(text=text), name="approve")
    more = gen(f"Passage: {text} {answer}", max_tokens=8)
    return f"{text} | {answer} | {more}"


@program
def lingering(topic: str) -> str:
    """Waits for a tool that does not end."""
    return gen(f"Passage: {linger(text=topic)}")


@program
def asked(topic: str) -> str:
    """Asks."""
    return interrupt(topic)


def all_is_written(server: Server) -> None:
    """Wait until the journal has on the disk what it has got: it takes one thing after the other."""
    asked.using(server.client).submit("anything", detached=True)


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the tools of the servers note their calls."""
    (tmp_path / "tools_of_restart.py").write_text(TOOLS)
    monkeypatch.setenv("WEFT_TOOLS", '["tools_of_restart:send", "tools_of_restart:linger"]')
    monkeypatch.setenv("WEFT_IMPORT_PATHS", f'["{tmp_path}"]')
    return tmp_path / "calls.txt"


def processes_of(server: Server) -> dict[int, str]:
    """The command lines of its processes, by their ids."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    return {int(pid): Path(f"/proc/{pid}/cmdline").read_text() for pid in children}


def orchestrator_of(server: Server) -> int:
    """The id of its process."""
    return next(pid for pid, line in processes_of(server).items() if "weft.runtime.orchestrator" in line)


def state_of(server: Server, run: str) -> str:
    """The state of a run; empty while the server does not answer."""
    with suppress(Unavailable):
        return next((info.state for info in server.client.runs() if info.run == run), "")
    return ""


def noted(calls: Path) -> list[str]:
    return calls.read_text().splitlines() if calls.exists() else []


def test_a_run_goes_on_when_the_orchestrator_was_killed(tmp_path: Path, calls: Path) -> None:
    with serving(tmp_path, "--http", "127.0.0.1:0") as server:
        expected = approved.using(server.client).submit("rivers", detached=True)
        eventually(lambda: expected.status == "waiting")
        expected.resume("go on")
        text = expected.result(timeout=60)
        run = approved.using(server.client).submit("rivers", detached=True).id
        eventually(lambda: state_of(server, run) == "waiting")
        before = noted(calls)
        assert len(before) == 2
        all_is_written(server)
        os.kill(orchestrator_of(server), signal.SIGKILL)
        eventually(lambda: state_of(server, run) == "waiting", within_s=60)
        answered = server.weft("runs", "resume", run, "--value", "go on")
        assert answered.returncode == 0, answered.stderr
        assert server.client.run(run).result(timeout=60) == text
        assert noted(calls) == before
        eventually(lambda: httpx2.get(f"http://{server.http}/ready").is_success)


def test_runs_outlive_a_server_that_was_killed(tmp_path: Path, calls: Path) -> None:
    with serving(tmp_path) as server:
        waiting = approved.using(server.client).submit("hills", detached=True).id
        cut_off = lingering.using(server.client).submit("hills", detached=True).id
        eventually(lambda: state_of(server, waiting) == "waiting" and "linger" in noted(calls))
        before = noted(calls)
        all_is_written(server)
        os.kill(server.process.pid, signal.SIGSTOP)  # so that it starts nothing again
        os.kill(orchestrator_of(server), signal.SIGKILL)
        server.process.kill()
    with serving(tmp_path) as server:
        eventually(lambda: state_of(server, waiting) == "waiting")
        with pytest.raises(ProgramError, match="may have changed something; it is not run again") as lost:
            server.client.run(cut_off).result(timeout=60)
        assert "linger" in str(lost.value)
        server.client.run(waiting).resume("yes")
        text = server.client.run(waiting).result(timeout=60)
        assert " | yes | " in text
        assert noted(calls) == before
    with serving(tmp_path) as server:
        assert server.client.run(waiting).result(timeout=1) == text
        with pytest.raises(ProgramError, match="it is not run again"):
            server.client.run(cut_off).result(timeout=1)


def test_a_server_that_is_stopped_leaves_its_runs(tmp_path: Path, calls: Path) -> None:
    with serving(tmp_path) as server:
        run = approved.using(server.client).submit("hills", detached=True).id
        eventually(lambda: state_of(server, run) == "waiting")
    with serving(tmp_path) as server:
        eventually(lambda: state_of(server, run) == "waiting")
        server.client.run(run).cancel()
        assert state_of(server, run) == "cancelled"
        assert len(noted(calls)) == 1


def test_runs_outlive_the_machine_of_a_server_that_was_killed_if_a_database_has_the_journal(
    tmp_path: Path, calls: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres.url(postgres.database(), "guarded", "hidden")
    monkeypatch.setenv("WEFT_JOURNAL", url)
    with serving(tmp_path / "one") as server:
        waiting = approved.using(server.client).submit("hills", detached=True).id
        over = approved.using(server.client).submit("hills", detached=True)
        eventually(lambda: state_of(server, waiting) == state_of(server, over.id) == "waiting")
        over.resume("yes")
        text = over.result(timeout=60)
        before = noted(calls)
        all_is_written(server)
        told = refused(tmp_path / "two")
        assert "another server uses it" in told
        assert "hidden" not in told + "".join(processes_of(server).values())
        os.kill(server.process.pid, signal.SIGSTOP)  # so that it starts nothing again
        os.kill(orchestrator_of(server), signal.SIGKILL)
        server.process.kill()
    with serving(tmp_path / "two") as server:
        eventually(lambda: state_of(server, waiting) == "waiting")
        server.client.run(waiting).resume("yes")
        assert server.client.run(waiting).result(timeout=60) == text
        assert server.client.run(over.id).result(timeout=1) == text
        assert noted(calls) == before
    assert not list(tmp_path.rglob("runs.sqlite"))


def refused(folder: Path) -> str:
    """What a server says that cannot start with this data folder."""
    command = [*WEFT, "serve", "--listen", "127.0.0.1:0", "--data", str(folder / "data")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    return done.stderr


def test_a_journal_that_cannot_be_used_is_said_at_the_start(tmp_path: Path) -> None:
    file = tmp_path / "data" / "runs.sqlite"
    with serving(tmp_path):
        assert "another server uses it" in refused(tmp_path)
    file.write_text("no database at all, " * 1000)
    told = " ".join(refused(tmp_path).split())
    assert "the journal" in told
    assert "move it away: its runs are lost" in told
