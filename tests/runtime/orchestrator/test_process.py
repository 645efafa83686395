"""The orchestrator as a process."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from weft.proto import orchestrator_pb2 as pb
from weft.proto import orchestrator_pb2_grpc, worker_pb2

MODULE = ("-m", "weft.runtime.orchestrator")
ENDING_WITH_THE_PROCESS = """
import asyncio, contextlib
from weft.runtime.orchestrator.__main__ import _main
from weft.runtime.orchestrator.workers import WorkerLink

async def close(self):
    main = next(task for task in asyncio.all_tasks() if task.get_name() == "Task-1")
    while not main.done():
        with contextlib.suppress(asyncio.CancelledError):  # when gRPC cancels the call
            await asyncio.sleep(0)
    for _ in range(self.info.pid):
        await asyncio.sleep(0)
    raise asyncio.CancelledError

WorkerLink.close = close
_main()
"""
"""Calls of `Join` by nobody that end so many turns of the loop after its main task as their `pid` says."""


@contextmanager
def process(listen: str, code: Sequence[str] = MODULE, **settings: object) -> Iterator[subprocess.Popen[str]]:
    config = json.dumps({"listen": listen, "models": [], "journal_mb": 0, **settings})
    command = [sys.executable, "-P", *code, "--config", config]
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


def test_calls_that_end_with_the_process_leave_no_traceback() -> None:
    with (
        process("127.0.0.1:0", ("-c", ENDING_WITH_THE_PROCESS), log_level="error") as started,
        closing(grpc.insecure_channel(address_of(started))) as channel,
    ):
        stub = orchestrator_pb2_grpc.OrchestratorStub(channel)
        calls = [stub.Join(worker_pb2.WorkerInfo(address="127.0.0.1:1", pid=turns)) for turns in range(4)]
        stub.Describe(pb.DescribeServerRequest())  # the others are under way by then
        started.terminate()
        _, said = started.communicate(timeout=20)
        assert all(call.code() is not grpc.StatusCode.OK for call in calls)
    assert (started.returncode, said) == (0, "")


def test_a_unix_socket_is_not_taken_from_the_server_that_listens_there(tmp_path: Path) -> None:
    with process(f"unix:{tmp_path}/s") as first:
        address = address_of(first)
        with process(address) as second:
            _, complaint = second.communicate(timeout=20)
        assert second.returncode == 2
        assert complaint.startswith(
            f"weft orchestrator: cannot listen on '{address}': Address already in use; "
        )
        with closing(grpc.insecure_channel(address)) as channel:
            stub = orchestrator_pb2_grpc.OrchestratorStub(channel)
            assert not stub.Describe(pb.DescribeServerRequest()).workers
        first.kill()
        first.wait()
    with process(address) as third:  # in the place of what a killed server has left
        assert address_of(third) == address


@pytest.mark.parametrize(
    ("path", "why"),
    [("no/folder", "no socket can be made there"), ("x" * 120, "AF_UNIX path too long")],
)
def test_a_unix_socket_that_cannot_be_made_is_one_line(path: str, why: str, tmp_path: Path) -> None:
    with process(f"unix:{tmp_path}/{path}") as started:
        _, complaint = started.communicate(timeout=20)
    assert started.returncode == 2
    assert len(complaint.splitlines()) == 1
    assert f"{path}': {why}; name another address" in complaint


@pytest.mark.parametrize("case", ["port in use", "metrics in use", "unknown key", "unknown pass"])
def test_what_is_wrong_at_the_start_is_one_line(case: str) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        used = taken.getsockname()[1]
        port = used if case == "port in use" else 0
        wrong: dict[str, dict[str, Any]] = {
            "port in use": {},
            "metrics in use": {"metrics": f"127.0.0.1:{used}"},
            "unknown key": {"colour": "red"},
            "unknown pass": {"passes_off": ["lower"]},
        }
        with process(f"127.0.0.1:{port}", **wrong[case]) as started:
            _, complaint = started.communicate(timeout=20)
    assert started.returncode == 2
    assert len(complaint.splitlines()) == 1
    said = {
        "port in use": str(used),
        "metrics in use": f"'127.0.0.1:{used}': Address already in use; name another address (--metrics",
        "unknown key": "colour",
        "unknown pass": "'lower'",
    }
    assert said[case] in complaint
