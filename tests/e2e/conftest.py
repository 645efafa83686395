"""Servers as a person would start them: the `weft` command, its processes, TCP."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from weft import Client
from weft.apps import rag
from weft.apps.reference_model.corpus import prepare

WEFT = [str(Path(sys.executable).with_name("weft"))]
STOP_WITHIN_S = 20.0
RAG = Path(rag.__file__).with_name("program.py")


class Server:
    """A running `weft serve`."""

    def __init__(
        self,
        process: subprocess.Popen[str],
        address: str,
        http: str | None = None,
        metrics: str | None = None,
    ) -> None:
        self.process = process
        self.address = address
        self.http = http
        self.metrics = metrics
        self.client = Client(address)

    def weft(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command of weft against this server."""
        return weft(*arguments, "--server", self.address, **options)

    def status(self, kind: str = "llm") -> Any:
        """The last status of the first worker with an engine of `kind`."""
        info = self.client.describe()
        worker = next(w for w in info.workers if any(engine.kind == kind for engine in w.engines))
        return info.status[worker.worker_id]


def weft(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command of weft to its end."""
    return subprocess.run(
        [*WEFT, *arguments], capture_output=True, text=True, timeout=120, check=False, **options
    )


def eventually(holds: Callable[[], bool], within_s: float = 20.0) -> None:
    """Wait until something holds; fail if it does not in time."""
    until = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < until, "it did not come true in time"
        time.sleep(0.05)


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[Server]:
    """A server on a free port, ended by SIGTERM."""
    command = [
        *WEFT,
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--data",
        str(folder / "data"),
        "--json",
        *arguments,
    ]
    environment = {**os.environ, "WEFT_PROFILE_S": "0"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"the server did not start; exit status {process.wait()}"
        announced = json.loads(line)
        server = Server(process, announced["listening"], announced["http"], announced["metrics"])
        yield server
        server.client.close()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(STOP_WITHIN_S)
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the reference model and the demo corpus, for tests that leave it as they find it."""
    programs = ("--program", "rag", "--program", f"cited={RAG}:cited_answer")
    with serving(tmp_path_factory.mktemp("server"), "--http", "127.0.0.1:0", *programs) as started:
        prepare(started.client)
        yield started


@pytest.fixture
def raw(server: Server) -> Iterator[httpx2.Client]:
    """A plain client of the server's HTTP door."""
    with httpx2.Client(base_url=f"http://{server.http}", timeout=60) as made:
        yield made


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """A server for a test that does harm to it."""
    with serving(tmp_path) as started:
        prepare(started.client)
        yield started
