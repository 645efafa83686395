from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner, Result

from weft.frontend.cli.main import app
from weft.frontend.client import connect

if TYPE_CHECKING:
    from ..conftest import MiniServer

Weft = Callable[..., Result]
"""Runs the command in this process: `weft("run", "x.py:f")`."""

COMMAND = (sys.executable, "-P", "-c", "from weft.frontend.cli.entry import main; main()")
"""The command as a process of its own."""


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test in an empty working folder, without variables of the machine."""
    monkeypatch.chdir(tmp_path)
    for variable in [name for name in os.environ if name.startswith("WEFT_")]:
        monkeypatch.delenv(variable)


@pytest.fixture
def weft() -> Iterator[Weft]:
    runner = CliRunner()
    yield lambda *arguments: runner.invoke(app, [str(argument) for argument in arguments])
    connect(None)


@pytest.fixture
def command() -> Callable[..., subprocess.Popen[str]]:
    """Starts the command as a process of its own."""

    def start(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    return start


@pytest.fixture
def echo_server(_grpc_server: tuple[object, MiniServer]) -> str:
    """The address of a server whose model only echoes."""
    return _grpc_server[1].address


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server without language models: it embeds, indexes and searches."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "weft.toml").write_text('models = []\nlisten = "127.0.0.1:0"\ndata = "data"\n')
    command = [*COMMAND, "serve", "--json", "--config", str(folder / "weft.toml")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["listening"]
        process.terminate()
