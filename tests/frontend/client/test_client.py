"""Runs, connections and what goes wrong with them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from contextlib import aclosing, closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import weft
from weft import Client, gen, program
from weft.frontend.client import NodeChanged, RunFinished, RunStarted, TextAdded
from weft.frontend.client import client as client_module
from weft.frontend.errors import NotFound, Rejected, RunCancelled, Unavailable
from weft.proto import orchestrator_pb2 as pb
from weft.runtime.config import ConfigError

if TYPE_CHECKING:
    from ..conftest import MiniServer


@program
def echo(text: str) -> str:
    return gen(f"Say {text}")


@program
async def grown(text: str) -> str:
    return echo(text)


@program
def unknown_model() -> str:
    return gen("x", model="nobody")


def test_a_submitted_run(server: MiniServer) -> None:
    run = echo.submit("hi")
    assert run.result(timeout=10) == "[<user>Say hi<assistant>]"
    assert run.id == server.last.id
    assert run.status == "done"
    assert run.trace()["run"] == run.id
    assert "done" in repr(run)


async def test_a_submitted_run_async(server: MiniServer) -> None:
    assert await echo.submit("hi").aresult() == "[<user>Say hi<assistant>]"


def test_events(server: MiniServer) -> None:
    run = echo.submit("hi")
    events = list(run.events())
    assert isinstance(events[0], RunStarted)
    assert events[0].program == "echo"
    assert isinstance(events[-1], RunFinished)
    assert events[-1].state == "done"
    assert {event.label for event in events if isinstance(event, NodeChanged)} >= {"prefill", "decode"}


def test_a_submitted_run_can_be_streamed(server: MiniServer) -> None:
    run = echo.submit("hi", stream=True)
    texts = [event.text for event in run.events() if isinstance(event, TextAdded)]
    assert texts == ["[<u", "ser>Say hi<assistant>]"]
    assert list(run.pieces()) == texts
    assert "".join(texts) == run.result(timeout=10)


def test_a_submitted_async_program_can_be_streamed(server: MiniServer) -> None:
    run = grown.submit("hi", stream=True)
    assert list(run.pieces()) == ["[<u", "ser>Say hi<assistant>]"]
    assert run.result(timeout=10) == "[<user>Say hi<assistant>]"


def test_without_streaming_the_only_piece_is_the_result(server: MiniServer) -> None:
    run = echo.submit("hi")
    assert list(run.pieces()) == ["[<user>Say hi<assistant>]"]
    assert not any(isinstance(event, TextAdded) for event in run.events())


def test_pieces_of_a_run_that_fails(server: MiniServer) -> None:
    with pytest.raises(weft.ProgramError, match="the model broke"):
        list(echo.submit("FAIL", stream=True).pieces())


def test_a_detached_run_cannot_be_streamed(server: MiniServer) -> None:
    before = len(server.runs)
    with pytest.raises(weft.TraceError, match=r"test_client\.py:\d+: a detached run cannot be streamed"):
        echo.submit("hi", detached=True, stream=True)
    assert len(server.runs) == before


def test_events_of_a_run_that_fails(server: MiniServer) -> None:
    last = list(echo.submit("FAIL").events())[-1]
    assert isinstance(last, RunFinished)
    assert (last.state, last.error) == ("failed", "the model broke")


def test_a_client_as_a_context_manager_ends_its_runs(server: MiniServer) -> None:
    with Client(server.address) as client:
        assert echo.using(client)("hi") == "[<user>Say hi<assistant>]"
        run = echo.using(client).submit("HANG")
    with pytest.raises(RunCancelled, match="the run was abandoned"):
        run.result(timeout=10)
    assert server.last.cancelled.wait(10)


def test_cancelling(server: MiniServer) -> None:
    run = echo.submit("HANG")
    run.cancel()
    with pytest.raises(RunCancelled):
        run.result(timeout=10)
    assert run.status == "cancelled"
    run.cancel()  # a run that is over stays as it is


def test_waiting_may_end_before_the_run(server: MiniServer) -> None:
    run = echo.submit("HANG")
    with pytest.raises(TimeoutError):
        run.result(timeout=0.01)
    assert run.status == "running"
    run.cancel()


async def test_waiting_may_be_cancelled_without_the_run(server: MiniServer) -> None:
    run = echo.submit("HANG")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(run.aresult(), 0.01)
    assert run.status == "running"
    await asyncio.to_thread(run.cancel)


async def test_leaving_a_stream_cancels_its_run(server: MiniServer) -> None:
    async with aclosing(echo.astream("hi")) as pieces:
        assert await anext(pieces) == "[<u"
    with closing(echo.stream("hi")) as sync_pieces:
        assert next(sync_pieces) == "[<u"
    stream = echo.astream("HANG")
    reading = asyncio.ensure_future(anext(stream))
    while not any("HANG" in prompt for prompt in server.prompts):
        await asyncio.sleep(0.01)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await asyncio.to_thread(server.last.cancelled.wait, 10)
    assert server.last.cancelled.is_set()


def test_a_detached_run(server: MiniServer) -> None:
    run = echo.submit("hi", detached=True)
    assert run.result(timeout=10) == "[<user>Say hi<assistant>]"
    again = Client(server.address).run(run.id)
    assert again.result(timeout=10) == "[<user>Say hi<assistant>]"
    assert isinstance(list(again.events())[-1], RunFinished)


def test_an_unknown_run(server: MiniServer) -> None:
    with pytest.raises(NotFound, match="unknown run 'nobody'"):
        Client(server.address).run("nobody")


def test_what_the_server_refuses_at_the_door(server: MiniServer) -> None:
    with pytest.raises(Rejected, match=r"test_client\.py:\d+.*unknown model 'nobody'.*'echo'"):
        unknown_model()


def test_the_service_can_be_called_directly(server: MiniServer) -> None:
    client = weft.connect(server.address)
    assert client.describe().default_model == "echo"
    info = client.call(lambda stub: stub.Describe(pb.DescribeServerRequest()))
    assert info.version == "test"
    echo("x")
    assert server.last.id in {run.run for run in client.runs()}


def test_options_of_a_program_reach_the_server(server: MiniServer) -> None:
    echo.using(timeout=5, namespace="a", priority=2).invoke("x")
    submit = server.last.start.submit
    assert (submit.deadline_s, submit.namespace, submit.priority) == (5.0, "a", 2)
    assert echo.using(Client(server.address)).invoke("x") == echo("x")


@pytest.mark.parametrize(
    ("address", "remedy"),
    [
        ("127.0.0.1:1", "weft serve"),
        ("unix:/nonexistent/socket", "weft serve"),
    ],
)
def test_no_server_there(address: str, remedy: str) -> None:
    with pytest.raises(Unavailable, match=f"no weft server answers at '{address}'.*{remedy}"):
        echo.using(Client(address)).invoke("x")


def test_an_address_is_no_url() -> None:
    with pytest.raises(ConfigError, match=r"server: an address is 'HOST:PORT', .* not 'http://h:1'"):
        echo.using(Client("http://h:1")).invoke("x")


def test_who_vouches_for_a_server_is_of_use_where_it_is_called_by_tls(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^tls_ca is for a server that speaks TLS: call it grpcs://h:1$"):
        Client("h:1", tls_ca="ca.pem")
    with pytest.raises(ConfigError, match=r"tls_ca: .*/gone\.pem cannot be read"):
        Client("grpcs://h:1", tls_ca=tmp_path / "gone.pem").describe()


def test_the_configuration_names_the_server(server: MiniServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFT_SERVER", server.address)
    client = Client()
    monkeypatch.setattr(client_module, "_default", client)
    assert echo("x") == "[<user>Say x<assistant>]"
    assert client.server == server.address
    client.close()


def test_many_threads_share_a_client(server: MiniServer) -> None:
    results: list[str] = []
    threads = [threading.Thread(target=lambda: results.append(echo("x"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["[<user>Say x<assistant>]"] * 8


def test_ctrl_c_cancels_the_run(server: MiniServer, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import weft\n"
        "@weft.program\n"
        "def hang() -> str:\n"
        "    return weft.gen('HANG')\n"
        "try:\n"
        "    hang()\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
    )
    environment = os.environ | {"WEFT_SERVER": server.address}
    child = subprocess.Popen(
        [sys.executable, "-P", str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    runs = len(server.runs)
    _until(lambda: any("HANG" in prompt for prompt in server.prompts))
    child.send_signal(signal.SIGINT)
    output, errors = child.communicate(timeout=20)
    assert (child.returncode, output, errors) == (0, "interrupted\n", "")
    assert server.last.cancelled.wait(10)
    assert len(server.runs) == runs + 1


_FORKING = """
import os
import weft

@weft.program
def echo(text: str) -> str:
    return weft.gen(f"Say {text}")

if USED_BEFORE:
    echo("parent")
child = os.fork()
if child == 0:
    try:
        print(echo("child"), flush=True)
    except weft.ProgramError as problem:
        print(problem, flush=True)
    os._exit(0)
os.waitpid(child, 0)
print(echo("parent"))
"""


@pytest.mark.parametrize(
    ("used_before", "said"),
    [(False, "[<user>Say child<assistant>]"), (True, "this process was forked from one that had used weft")],
)
def test_a_forked_child(server: MiniServer, used_before: bool, said: str) -> None:
    code = _FORKING.replace("USED_BEFORE", str(used_before))
    environment = os.environ | {"WEFT_SERVER": server.address, "GRPC_VERBOSITY": "NONE"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, env=environment, timeout=60
    )
    child, parent = done.stdout.splitlines()
    assert child.startswith(said)
    assert parent == "[<user>Say parent<assistant>]"


def _until(condition: object) -> None:
    assert callable(condition)
    limit = threading.Event()
    for _ in range(1000):
        if condition():
            return
        limit.wait(0.02)
    pytest.fail("it did not happen")
