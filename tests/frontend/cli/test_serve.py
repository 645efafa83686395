"""`weft serve` and `weft worker`: they begin, end cleanly, and say what keeps them from it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Weft

Command = Callable[..., "subprocess.Popen[str]"]


def test_serve_ends_cleanly(command: Command) -> None:
    Path("weft.toml").write_text("models = []\n")
    with command("serve", "--listen", "127.0.0.1:0") as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("weft listens at 127.0.0.1:")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 0
    assert errors == ""


def test_a_port_in_use_is_one_line_and_status_2(command: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with command("serve", "--listen", address) as process:
            _, errors = process.communicate()
    assert process.returncode == 2
    assert errors.startswith(f"error: weft orchestrator: cannot listen on '{address}'")
    assert errors.count("\n") == 1


def test_a_missing_model_is_one_line_and_status_2(command: Command, tmp_path: Path) -> None:
    with command("serve", "--listen", "127.0.0.1:0", "--model", "gone=./gone") as process:
        _, errors = process.communicate()
    assert process.returncode == 2
    assert errors.startswith(
        f"error: weft worker: model 'gone': model folder '{tmp_path}/gone' does not exist"
    )
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [("serve", "--data", "taken"), ("worker", "--kind", "index", "--connect", "127.0.0.1:1")]
)
def test_a_data_folder_that_cannot_be_written_is_refused(
    weft: Weft, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    Path("taken").write_text("no folder")
    monkeypatch.setenv("WEFT_DATA", "taken")
    result = weft(*arguments)
    assert result.exit_code == 2
    said = " ".join(result.stderr.split())
    assert said.startswith(
        "error: data: indexes cannot be kept in 'taken/indexes': Not a directory; set `data`"
    )


def test_a_worker_joins_and_leaves(weft: Weft, command: Command, server: str) -> None:
    def workers() -> int:
        result = weft("models", "--server", server, "--json")
        assert result.exit_code == 0, result.stderr
        return len(json.loads(result.stdout)["workers"])

    before = workers()
    with command("worker", "--kind", "embed", "--connect", server) as process:
        while workers() == before:
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate()
    assert process.returncode == 0
    assert errors == f"worker (embed) joins {server}; Ctrl-C ends it\n"
    while workers() != before:
        pass
