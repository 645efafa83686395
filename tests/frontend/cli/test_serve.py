"""`weft serve` and `weft worker`: they begin, end cleanly, and say what keeps them from it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import pytest
from trustme import CA

from weft.graph.codec import encode_graph
from weft.graph.ir import Graph, Node, Value
from weft.graph.ops.common import Input, Tool
from weft.graph.types import TEXT
from weft.proto import orchestrator_pb2 as pb
from weft.proto.orchestrator_pb2_grpc import OrchestratorStub

from ...certificates import write_certificate
from .conftest import COMMAND, Weft

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


@pytest.mark.parametrize(
    ("listen", "options", "warning"),
    [
        ("0.0.0.0:0", (), "warning: 0.0.0.0:0: open to other machines, without a key; set WEFT_API_KEY\n"),
        (
            "0.0.0.0:0",
            ("--api-key", "k"),
            "warning: 0.0.0.0:0: other machines send the key unencrypted; set tls_cert and tls_key\n",
        ),
        ("0.0.0.0:0", ("--api-key", "k", "--tls-cert", "cert.pem", "--tls-key", "key.pem"), ""),
        ("127.0.0.1:0", (), ""),
        ("127.0.0.1:0", ("--api-key", "k"), ""),
    ],
)
def test_a_server_that_is_open_to_others_says_so(
    command: Command, listen: str, options: tuple[str, ...], warning: str
) -> None:
    Path("weft.toml").write_text("models = []\n")
    write_certificate(CA(), Path(), "localhost")
    with command("serve", "--listen", listen, *options) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("Ctrl-C"):
            pass
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert " ".join(errors.split()) == warning.strip()


def test_a_second_signal_leaves_no_process_behind(command: Command) -> None:
    Path("weft.toml").write_text("models = []\n")
    with command("serve", "--listen", "127.0.0.1:0") as process:
        assert process.stdout is not None
        process.stdout.readline()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        names = {child: Path(f"/proc/{child}/cmdline").read_bytes() for child in children}
        orchestrator = next(int(pid) for pid, name in names.items() if b"runtime.orchestrator" in name)
        os.kill(orchestrator, signal.SIGSTOP)  # so that it does not end by itself
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timeout=0.3)
        _, errors = process.communicate()
    assert process.returncode == 0
    assert errors == ""
    with pytest.raises(ProcessLookupError):
        os.kill(orchestrator, 0)


def test_a_server_that_is_killed_leaves_no_file_behind(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("weft.toml").write_text("models = []\n")
    Path("served.py").write_text(
        "from weft import gen, program\n\n@program\ndef tell(topic: str) -> str:\n    return gen(topic)\n"
    )
    with TemporaryDirectory() as temporary:
        monkeypatch.setenv("TMPDIR", temporary)
        with command("serve", "--listen", "127.0.0.1:0", "--program", "served.py:tell") as process:
            assert process.stdout is not None
            process.stdout.readline()
            there = os.listdir(temporary)
            process.kill()
        assert there
        while os.listdir(temporary):
            pass


def test_a_port_in_use_is_one_line_and_status_2(command: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with command("serve", "--listen", address) as process:
            _, errors = process.communicate()
    assert process.returncode == 2
    assert errors.startswith(f"error: weft orchestrator: cannot listen on '{address}'")
    assert errors.count("\n") == 1


def test_files_for_tls_that_do_not_fit_are_one_line_and_status_2(command: Command, weft: Weft) -> None:
    write_certificate(CA(), Path(), "localhost")
    Path("other").mkdir()
    write_certificate(CA(), Path("other"), "localhost")
    Path("weft.toml").write_text("models = []\n")
    options = ("--tls-cert", "cert.pem", "--tls-key", "other/key.pem")
    for arguments in (
        ("serve", "--listen", "127.0.0.1:0"),
        ("worker", "--kind", "embed", "--connect", "127.0.0.1:1"),
    ):
        with command(*arguments, *options) as process:
            _, errors = process.communicate()
        assert process.returncode == 2
        assert "other/key.pem is not the key of the certificate in" in " ".join(errors.split())
        assert "Traceback" not in errors
    result = weft("serve", "--tls-cert", "cert.pem")
    assert result.exit_code == 2
    assert "tls_cert and tls_key belong together, and tls_key is not set" in " ".join(result.stderr.split())


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


def workers(address: str) -> dict[str, int]:
    """The process ids of a server's workers."""
    with grpc.insecure_channel(address) as channel:
        info = OrchestratorStub(channel).Describe(pb.DescribeServerRequest(), timeout=10, wait_for_ready=True)
    return {worker.worker_id: worker.pid for worker in info.workers}


def test_a_worker_that_was_killed_is_no_wrong_usage(command: Command, server: str) -> None:
    before = workers(server)
    with command("worker", "--kind", "embed", "--connect", server) as process:
        while not (new := workers(server).items() - before.items()):
            assert process.poll() is None
        ((_, pid),) = new
        os.kill(pid, signal.SIGKILL)
        _, errors = process.communicate()
    assert process.returncode == 1
    assert errors.endswith("error: the worker was killed by SIGKILL; start it again\n")
    while workers(server) != before:
        pass


@pytest.mark.parametrize("option", ["--listen", "--connect", "--advertise"])
def test_an_address_that_is_none_is_one_line_and_status_2(weft: Weft, option: str) -> None:
    result = weft("worker", "--kind", "embed", "--connect", "127.0.0.1:1", option, "127.0.0.1:x")
    assert result.exit_code == 2
    said = " ".join(result.stderr.split())
    assert "an address is 'HOST:PORT'" in said
    assert "not '127.0.0.1:x'" in said
    assert "pydantic" not in result.stderr


def test_a_server_without_room_for_connections_says_so() -> None:
    Path("weft.toml").write_text("models = []\n")
    limit = 80
    script = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))"
    *python, start = COMMAND
    with subprocess.Popen(
        [*python, f"{script}; {start}", "serve", "--listen", "127.0.0.1:0", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        host, port = json.loads(process.stdout.readline())["listening"].split(":")
        with ExitStack() as connections:
            for _ in range(limit):
                connections.enter_context(socket.create_connection((host, int(port))))
            said = process.stderr.readline()
        process.terminate()
        process.communicate()
    assert f"nearly all of the {limit} files and connections that this process may hold are open" in said
    assert process.returncode == 0


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


def test_a_worker_of_tools_runs_the_programs_of_its_configuration(
    weft: Weft, command: Command, server: str
) -> None:
    Path("weft.toml").write_text('models = []\n[programs]\nechoes = "served.py:echoes"\n')
    Path("served.py").write_text(
        "from weft import program\n\n@program\nasync def echoes(word: str) -> str:\n    return word\n"
    )

    def tools() -> list[str]:
        result = weft("models", "--server", server, "--json")
        return [tool["name"] for tool in json.loads(result.stdout)["tools"]]

    with command("worker", "--kind", "tool", "--connect", server) as process:
        while not tools():
            assert process.poll() is None
        nodes = (Node(0, Input("word")), Node(1, Tool("echoes", TEXT, "server"), {"word": Value(0)}))
        request = pb.SubmitRequest(graph=encode_graph(Graph(nodes, (Value(1),))), inputs={"word": '"hey"'})
        with grpc.insecure_channel(server) as channel:
            result = OrchestratorStub(channel).Invoke(request)
        assert result.outputs[0].text.text == "hey"
        process.send_signal(signal.SIGTERM)
        process.communicate()
    while tools():
        pass
