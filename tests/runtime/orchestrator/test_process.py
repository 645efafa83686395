"""The orchestrator as a process."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import grpc
import pytest

from weft.proto import orchestrator_pb2 as pb
from weft.proto import orchestrator_pb2_grpc


@contextmanager
def process(listen: str, **settings: object) -> Iterator[subprocess.Popen[str]]:
    config = json.dumps({"listen": listen, "models": [], **settings})
    command = [sys.executable, "-P", "-m", "weft.runtime.orchestrator", "--config", config]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as started:
        try:
            yield started
        finally:
            started.kill()


def address_of(started: subprocess.Popen[str]) -> str:
    assert started.stdout
    listening: str = json.loads(started.stdout.readline())["listening"]
    return listening


@pytest.mark.parametrize("end", ["stdin", signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_listens_and_ends_cleanly(end: str | signal.Signals, tmp_path: Path) -> None:
    with process(f"unix:{tmp_path}/s" if end == "stdin" else "127.0.0.1:0") as started:
        with closing(grpc.insecure_channel(address_of(started))) as channel:
            stub = orchestrator_pb2_grpc.OrchestratorStub(channel)
            assert not stub.Describe(pb.DescribeServerRequest()).workers
            if isinstance(end, signal.Signals):
                started.send_signal(end)
            else:
                assert started.stdin
                started.stdin.close()
            assert started.wait(timeout=10) == 0
        assert started.stderr
        assert started.stderr.read() == ""


@pytest.mark.parametrize("case", ["port in use", "unknown key", "unknown pass"])
def test_what_is_wrong_at_the_start_is_one_line(case: str) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1] if case == "port in use" else 0
        wrong: dict[str, dict[str, object]] = {
            "port in use": {},
            "unknown key": {"colour": "red"},
            "unknown pass": {"passes_off": ["lower"]},
        }
        with process(f"127.0.0.1:{port}", **wrong[case]) as started:
            _, complaint = started.communicate(timeout=20)
    assert started.returncode == 2
    assert len(complaint.splitlines()) == 1
    assert {"port in use": str(port), "unknown key": "colour", "unknown pass": "'lower'"}[case] in complaint
