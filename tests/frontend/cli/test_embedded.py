from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

_PROGRAM = Path(__file__).parent / "data" / "embedding.py"
_FAKE = Path(__file__).parents[2] / "runtime" / "data" / "fake_server.py"


def _start(ending: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", str(_PROGRAM), str(_FAKE), ending],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _wait_until_gone(state: dict[str, Any]) -> None:
    """Fail unless the processes and the folder of a runtime go soon. What init has yet to reap has gone."""
    deadline = time.monotonic() + 10
    while Path(state["folder"]).exists() or any(map(_lives, state["pids"])):
        assert time.monotonic() < deadline, f"left behind: {state}"
        time.sleep(0.02)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize(
    ("ending", "ended_by", "status"),
    [
        ("threads", None, 0),
        ("raise", None, 1),
        ("wait", signal.SIGINT, -signal.SIGINT),
        ("wait", signal.SIGTERM, -signal.SIGTERM),
        ("wait", signal.SIGKILL, -signal.SIGKILL),
    ],
)
def test_nothing_is_left_however_the_program_ends(
    ending: str, ended_by: signal.Signals | None, status: int
) -> None:
    with _start(ending) as program:
        assert program.stdout is not None
        state = json.loads(program.stdout.readline())
        assert len(state["pids"]) == 1
        if ended_by is not None:
            program.send_signal(ended_by)
        assert program.wait() == status
    _wait_until_gone(state)


def test_a_forked_child_has_a_runtime_of_its_own() -> None:
    with _start("fork") as program:
        output, _ = program.communicate()
        assert program.returncode == 0
    own, forked, last = output.splitlines()
    assert last == "the parent's still runs"
    assert json.loads(own)["folder"] != json.loads(forked)["folder"]
    _wait_until_gone(json.loads(own))
    _wait_until_gone(json.loads(forked))
