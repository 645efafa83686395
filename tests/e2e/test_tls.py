"""Processes of a server that talk by TLS: clients, commands, workers that join, and the HTTP door."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from trustme import CA

from weft import Client, connect, gen, program, tool
from weft.apps.reference_model.world import Corpus
from weft.frontend.errors import Unavailable
from weft.runtime.config import REFERENCE_MODEL

from ..certificates import write_certificate
from .conftest import WEFT, Server, eventually, serving, weft
from .test_restart import orchestrator_of

MODEL = {"name": "reference", "path": str(REFERENCE_MODEL), "kv_tokens": 8192, "threads": 1}
PASSAGES = "\n".join(placed.passage.text for placed in Corpus(1000).passages[:20])


@tool
def shout(text: str) -> str:
    return text.upper()


@program
def answer(question: str) -> str:
    return gen(f"{PASSAGES}\n\nQuestion: {question}", max_tokens=8)


@program
async def loud(topic: str) -> str:
    return await shout(await gen(topic, max_tokens=4))


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A certificate for 127.0.0.1 and those that check it, as this process and those that it starts know."""
    write_certificate(CA(), tmp_path, "127.0.0.1")
    monkeypatch.setenv("WEFT_TLS_CA", str(tmp_path / "ca.pem"))
    monkeypatch.setenv("WEFT_API_KEY", "a-long-secret")
    return tmp_path


def shown(files: Path) -> list[str]:
    return ["--tls-cert", str(files / "cert.pem"), "--tls-key", str(files / "key.pem")]


@contextmanager
def joined(server: Server, files: Path, count: int) -> Iterator[None]:
    """So many workers with the model that have joined from elsewhere."""
    before = len(server.client.describe().workers)
    command = [*WEFT, "worker", "--kind", "llm", "--connect", server.address, *shown(files)]
    environment = {**os.environ, "WEFT_MODELS": json.dumps([MODEL]), "WEFT_PROFILE_S": "0"}
    processes = [subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) for _ in range(count)]
    try:
        eventually(lambda: len(server.client.describe().workers) == before + count, within_s=90)
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


def test_workers_that_join_fetch_kv_from_each_other_by_tls(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEFT_MODELS", "[]")
    monkeypatch.setenv("WEFT_SCHEDULER__PLACEMENT", "round_robin")
    with serving(files, *shown(files)) as server, joined(server, files, 2):
        workers = server.client.describe().workers
        models = [worker.address for worker in workers if worker.engines[0].kind == "llm"]
        assert len(models) == 2
        assert all(address.startswith("grpcs://127.0.0.1:") for address in models)
        runs = []
        for question in ("Who?", "Where?"):
            runs.append(answer.using(server.client).submit(question))
            assert runs[-1].result(timeout=60)
        fetched = [sum(task.fetched_tokens for task in run.explain().tasks.values()) for run in runs]
        assert fetched[0] == 0
        assert fetched[1] > 1000


def test_clients_and_commands_call_by_tls(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(files, "--http", "127.0.0.1:0", *shown(files)) as server:
        assert server.address.startswith("grpcs://127.0.0.1:")
        text = loud.using(server.client)("rivers")
        assert answer.using(server.client).submit("Who?", detached=True).result(timeout=60)
        assert server.weft("models").returncode == 0
        context = ssl.create_default_context(cafile=files / "ca.pem")
        for key, status in (("a-long-secret", 200), ("another", 401)):
            headers = {"authorization": f"Bearer {key}"}
            answered = httpx2.get(f"https://{server.http}/v1/models", headers=headers, verify=context)
            assert answered.status_code == status

        monkeypatch.delenv("WEFT_TLS_CA")
        with Client(server.address, tls_ca=files / "ca.pem") as client:
            assert loud.using(client)("rivers") == text
        with pytest.raises(Unavailable, match=r"nobody who is known vouches for it .*; set WEFT_TLS_CA"):
            connect(server.address)
        plain = server.address.removeprefix("grpcs://")
        refused = weft("models", "--server", plain)
        assert refused.returncode == 2
        said = f"error: the server at '{plain}' cannot be talked to: it speaks TLS; call it {server.address}"
        assert " ".join(refused.stderr.split()) == said


def test_a_server_that_is_started_again_still_speaks_tls(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEFT_MODELS", "[]")
    with serving(files, *shown(files)) as server:
        before = orchestrator_of(server)
        server.client.describe()
        os.kill(before, signal.SIGKILL)

        def answers() -> bool:
            try:
                return bool(server.client.describe().workers) and orchestrator_of(server) != before
            except (Unavailable, StopIteration):
                return False

        eventually(answers, within_s=60)
