"""The door of a real orchestrator, over loopback, with small workers that have no model."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from weft.proto import worker_pb2
from weft.runtime.config import ModelSettings, Settings
from weft.runtime.http.app import build_app
from weft.runtime.http.server import HttpServer
from weft.runtime.llm.chat import ChatTemplate
from weft.runtime.orchestrator.server import Server
from weft.runtime.scheduler.policies import Policies
from weft.runtime.scheduler.scheduler import Scheduler
from weft.runtime.telemetry.metrics import Metrics

from ..orchestrator.conftest import EchoWorker, Until, retrieval, until

__all__ = ["Door", "StartDoor", "Until", "Writer", "language_model", "until"]

KEY = "secret"
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without certificates, whose loading takes long
CHAT = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"


class Writer(EchoWorker):
    """A worker whose model writes `reply`, or if that is empty what it has read, in angle brackets.

    `pause`: where in a text it stops until `go` is set.
    """

    def __init__(self, worker_id: str, engines: list[worker_pb2.EngineInfo]) -> None:
        super().__init__(worker_id, engines)
        self.reply = ""
        self.pause: int | None = None
        self.go = asyncio.Event()
        self.paused = 0

    def text(self, read: str) -> str:
        return self.reply or super().text(read)

    async def write(self, run: str, task: worker_pb2.Task, text: str) -> None:
        begun = worker_pb2.Delta(run=run, node=task.id, attempt=task.attempt)
        self.reports.put_nowait(worker_pb2.Report(delta=begun))
        pause = len(text) if self.pause is None else self.pause
        await super().write(run, task, text[:pause])
        if self.pause is not None:
            self.paused += 1
            await self.go.wait()
            await super().write(run, task, text[pause:])


def language_model(name: str, template: str = CHAT) -> worker_pb2.EngineInfo:
    chat = ChatTemplate(name, template).to_json() if template else ""
    info = worker_pb2.LlmInfo(
        context_length=1000, kv_slots=1_000_000, tokenizer="fingerprint", chat_template=chat
    )
    return worker_pb2.EngineInfo(kind="llm", model=name, llm=info)


@dataclass
class Door:
    """An orchestrator with a door, its clients and its workers."""

    server: Server
    http_server: HttpServer
    metrics: Metrics
    http: str
    grpc: str
    stack: AsyncExitStack
    openai: openai.AsyncOpenAI
    raw: httpx2.AsyncClient
    workers: list[Writer] = field(default_factory=list)

    async def worker(self, worker_id: str, *engines: worker_pb2.EngineInfo) -> Writer:
        worker = Writer(worker_id, list(engines) or [language_model("m"), *retrieval()])
        await worker.start(self.grpc)
        self.stack.push_async_callback(worker.stop)
        self.workers.append(worker)
        return worker

    @property
    def runs(self) -> dict[str, Any]:
        """The runs that are under way."""
        return self.server.orchestrator.shell.runs

    async def refused(self, path: str, body: Any, **options: Any) -> tuple[int, dict[str, Any]]:
        """The status and the error object of a request."""
        answer = await self.raw.post(path, json=body, **options)
        error: dict[str, Any] = answer.json()["error"]
        return answer.status_code, error


StartDoor = Callable[..., Any]


@pytest.fixture
async def start_door(tmp_path: Path) -> AsyncIterator[StartDoor]:
    """Starts a door with the given settings and no workers; the key is the door's alone."""
    async with AsyncExitStack() as stack:

        async def start(api_key: str | None = None, **settings: Any) -> Door:
            settings = {
                "listen": "127.0.0.1:0",
                "data": tmp_path,
                "models": [ModelSettings(name="m", path="/models/llama-3")],
                "max_message_mb": 1,
                "journal_mb": 0,
                **settings,
            }
            server = Server(Settings(**settings), Scheduler(Policies(grace_s=0.3)))
            metrics = Metrics(server.orchestrator)
            http = HttpServer("127.0.0.1:0", build_app(server.orchestrator, api_key, metrics))
            grpc, address = await server.start(), await http.start()

            async def stop() -> None:
                await asyncio.gather(server.stop(), http.stop())

            stack.push_async_callback(stop)
            client = await stack.enter_async_context(
                openai.AsyncOpenAI(
                    base_url=f"http://{address}/v1",
                    api_key=KEY,
                    max_retries=0,
                    http_client=httpx2.AsyncClient(verify=NO_TLS),
                )
            )
            raw = await stack.enter_async_context(
                httpx2.AsyncClient(base_url=f"http://{address}", timeout=60, verify=NO_TLS)
            )
            return Door(server, http, metrics, address, grpc, stack, client, raw)

        yield start


@pytest.fixture
async def door(start_door: StartDoor, tmp_path: Path) -> Door:
    """A door with one worker that offers everything, and some programs."""
    for name, graph in PROGRAMS.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"version": 1, "name": name, **graph}))
    programs = {name: tmp_path / f"{name}.json" for name in PROGRAMS}
    started: Door = await start_door(programs={**programs, "lost": tmp_path / "lost.json"})
    await started.worker("w1")
    return started


def _input(number: int, name: str, **given: Any) -> dict[str, Any]:
    return {"id": number, "input": {"name": name, "type": {"text": {}}, **given}}


def _generate(number: int, *parts: Any, **args: int) -> dict[str, Any]:
    written = [{"text": part} if isinstance(part, str) else part for part in parts]
    operands = {name: {"node": node} for name, node in args.items()}
    return {"id": number, "args": operands, "generate": {"messages": [{"role": "raw", "parts": written}]}}


PROGRAMS: dict[str, Any] = {
    "ask": {
        "nodes": [
            _input(0, "question"),
            _input(1, "style", default='"short"'),
            _generate(2, "Q: ", {"slot": "q"}, " in ", {"slot": "style"}, q=0, style=1),
            _generate(3, "Better: ", {"slot": "a"}, a=2),
        ],
        "outputs": [{"node": 3}],
    },
    "compare": {
        "nodes": [_input(0, "one"), _input(1, "other"), _generate(2, {"slot": "a"}, {"slot": "b"}, a=0, b=1)],
        "outputs": [{"node": 2}],
    },
    "count": {
        "nodes": [
            {"id": 0, "input": {"name": "messages", "type": {"data": {}}}},
            {"id": 1, "args": {"value": {"node": 0}}, "project": {"index": -1}},
        ],
        "outputs": [{"node": 1}],
    },
    "old": {
        "nodes": [_input(0, "text", default='"none"'), _generate(1, {"slot": "t"}, t=0)],
        "outputs": [{"node": 1}],
    },
}
