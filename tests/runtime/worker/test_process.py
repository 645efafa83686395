"""The worker as a process: how it starts, fails to start, and ends."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from weft.graph.ir import Node, Value
from weft.graph.ops.common import Tool
from weft.graph.ops.primitive import Decode, Prefill
from weft.graph.prompt import Fixed
from weft.graph.sampling import Sampling
from weft.graph.types import TEXT
from weft.proto.worker_pb2 import STREAM_TEXT

from .conftest import MODEL_FOLDER, PATIENCE_S, linked, orchestrator_at
from .test_host import embeds

Config = dict[str, Any]
EMBED: Config = {"kinds": ["embed"], "orchestrator": "127.0.0.1:1"}


def start(config: Config | str) -> subprocess.Popen[bytes]:
    text = config if isinstance(config, str) else json.dumps(config)
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "weft.runtime.worker", "--config", text],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def llm(path: Path, **settings: Any) -> Config:
    return {**EMBED, "kinds": ["llm"], "model": {"name": "m", "path": str(path), **settings}}


def corrupt_copy(folder: Path) -> Path:
    """A checkpoint whose weights have been cut off."""
    copy = folder / "corrupt"
    shutil.copytree(MODEL_FOLDER, copy)
    os.truncate(copy / "model.safetensors", 100_000)
    return copy


def bad_start(name: str, folder: Path, port: int) -> tuple[Config | str, str]:
    """A configuration that cannot work, and what the error says."""
    cases: dict[str, tuple[Config | str, str]] = {
        "json": ("{", "--config: Invalid JSON: "),
        "key": ({**EMBED, "kind": "embed"}, "kind: Extra inputs are not permitted"),
        "model folder": (llm(folder / "none"), f"model 'm': model folder '{folder}/none' does not exist"),
        "weights": (llm(corrupt_copy(folder)), "model 'm': "),
        "tool": (
            {**EMBED, "kinds": ["tool"], "tools": ["no.module:f"]},
            "module 'no.module' cannot be imported",
        ),
        "parts": (
            llm(MODEL_FOLDER, tensor_parallel=8),
            "tensor_parallel = 8 does not divide this model's num_key",
        ),
        "host tier": (
            llm(MODEL_FOLDER, device="cpu", tensor_parallel=2, host_kv_tokens=64),
            "several processes share keeps no KV on the host: host_kv_tokens must be 0",
        ),
        "port": ({**EMBED, "listen": f"127.0.0.1:{port}"}, f"cannot listen on '127.0.0.1:{port}'"),
    }
    return cases[name]


@pytest.mark.parametrize(
    "name", ["json", "key", "model folder", "weights", "tool", "parts", "host tier", "port"]
)
def test_what_cannot_start_says_why_in_one_line(name: str, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config, words = bad_start(name, tmp_path, taken.getsockname()[1])
        with start(config) as process:  # its standard input stays open meanwhile
            process.wait(PATIENCE_S)
            assert process.stdout is not None
            assert process.stderr is not None
            out, err = process.stdout.read(), process.stderr.read()
    assert process.returncode == 2
    assert words in err.decode()
    assert err.decode().startswith("weft worker: ")
    assert err.count(b"\n") == 1
    assert not out


@pytest.mark.parametrize("how", ["stdin", "SIGTERM", "SIGINT"])
async def test_a_worker_ends_cleanly(how: str, tmp_path: Path) -> None:
    async with orchestrator_at(f"unix:{tmp_path}/o.sock") as (stub, address):
        process = start({**EMBED, "orchestrator": address, "listen": f"unix:{tmp_path}/w.sock"})
        try:
            info = await asyncio.wait_for(stub.joins.get(), PATIENCE_S)
            assert info.pid == process.pid
            async with linked(info) as link:
                assert await embeds(link)
                if how == "stdin":
                    assert process.stdin is not None
                    process.stdin.close()
                    process.stdin = None
                else:
                    process.send_signal(signal.Signals[how])
                out, err = await asyncio.to_thread(process.communicate, timeout=PATIENCE_S)
        finally:
            process.kill()
            process.wait()
    assert (process.returncode, out, err) == (0, b"", b"")
    assert not (tmp_path / "w.sock").exists()


@pytest.mark.parametrize(("variable", "key"), [("k", "k"), ("", None)])
async def test_a_worker_has_the_key_from_its_environment(
    variable: str, key: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEFT_API_KEY", variable)
    async with orchestrator_at(f"unix:{tmp_path}/o.sock") as (stub, address):
        process = start({**EMBED, "orchestrator": address, "listen": f"unix:{tmp_path}/w.sock"})
        try:
            info = await asyncio.wait_for(stub.joins.get(), PATIENCE_S)
            async with linked(info, key) as link:
                assert await embeds(link)
        finally:
            process.kill()
            process.communicate()


async def test_an_orchestrator_that_stops_is_no_news(tmp_path: Path) -> None:
    async with orchestrator_at(f"unix:{tmp_path}/o.sock") as (stub, address):
        process = start({**EMBED, "orchestrator": address, "listen": f"unix:{tmp_path}/w.sock"})
        await asyncio.wait_for(stub.joins.get(), PATIENCE_S)
    try:
        await asyncio.sleep(0.5)  # some attempts to join again
        process.terminate()
        out, err = await asyncio.to_thread(process.communicate, timeout=PATIENCE_S)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, out, err) == (0, b"", b"")


async def test_a_hanging_tool_does_not_hold_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "hanging_tool.py").write_text("import time\ndef hang() -> str:\n    time.sleep(3600)\n")
    config = {**EMBED, "kinds": ["tool"], "tools": ["hanging_tool:hang"]}
    async with orchestrator_at(f"unix:{tmp_path}/o.sock") as (stub, address):
        config |= {"orchestrator": address, "listen": f"unix:{tmp_path}/w.sock"}
        process = start(config)
        try:
            async with linked(await asyncio.wait_for(stub.joins.get(), PATIENCE_S)) as link:
                await link.run(Node(1, Tool("hang", TEXT, "server")))
                await link.status(running=1)
                process.terminate()
                _, err = await asyncio.to_thread(process.communicate, timeout=PATIENCE_S)
        finally:
            process.kill()
            process.wait()
    assert (process.returncode, err) == (0, b"")


async def test_a_worker_ends_when_it_has_lost_a_part_of_its_model(tmp_path: Path) -> None:
    async with orchestrator_at(f"unix:{tmp_path}/o.sock") as (stub, address):
        settings = {"device": "cpu", "tensor_parallel": 2, "kv_tokens": 4096, "threads": 1}
        config = llm(MODEL_FOLDER, **settings) | {"orchestrator": address, "profile_s": 0}
        process = start(config | {"listen": f"unix:{tmp_path}/w.sock"})
        try:
            info = await asyncio.wait_for(stub.joins.get(), PATIENCE_S)
            (engine,) = info.engines
            assert engine.detail == "llama, float32 on cpu and 1 more"
            assert not engine.llm.kv_layout
            async with linked(info) as link:
                kv = Node(1, Prefill("m", (Fixed("Once upon a time"),)))
                sampling = Sampling(max_tokens=1500, ignore_eos=True)
                await link.run(kv, Node(2, Decode("m", sampling), {"kv": Value(1)}), stream=STREAM_TEXT)
                await link.until(link.deltas)
                os.kill(follower_of(process.pid), signal.SIGKILL)
                fault = await link.fault(2)
                out, err = await asyncio.to_thread(process.communicate, timeout=PATIENCE_S)
        finally:
            process.kill()
            process.wait()
    why = "rank 1 on cpu: its process was killed by SIGKILL"
    assert (fault.code, fault.message, fault.retryable) == ("internal", why, True)
    assert (process.returncode, out) == (2, b"")
    assert err.decode().splitlines()[-1] == f"weft worker: {why}"
    assert not (tmp_path / "w.sock").exists()


def follower_of(pid: int) -> int:
    """The one child of a process."""
    found = [
        int(task)
        for threads in Path(f"/proc/{pid}/task").iterdir()
        for task in (threads / "children").read_text().split()
    ]
    assert len(found) == 1
    return found[0]


def test_a_worker_without_a_model_does_not_load_torch() -> None:
    code = "import sys, weft.runtime.worker.process; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", code], check=False).returncode == 0
