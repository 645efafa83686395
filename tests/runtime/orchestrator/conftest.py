"""A real orchestrator over loopback, and small workers that speak real gRPC without any model."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from weft.graph.codec import decode_datum, decode_node, encode_datum, encode_type
from weft.graph.ir import Node
from weft.graph.ops.common import Embed, Search, Tool
from weft.graph.ops.primitive import Chunk, Decode, Prefill, Score, Upsert
from weft.graph.prompt import Fixed
from weft.graph.types import TEXT
from weft.graph.values import EFFECT, Datum, Json, KvValue, TextValue, VectorsValue, render, strip
from weft.proto import graph_pb2, orchestrator_pb2_grpc, value_pb2, worker_pb2, worker_pb2_grpc
from weft.runtime.channels import server_options
from weft.runtime.config import ModelSettings, Settings
from weft.runtime.orchestrator.journal import Journal
from weft.runtime.orchestrator.journal_file import FILE
from weft.runtime.orchestrator.server import Server
from weft.runtime.scheduler.policies import Policies
from weft.runtime.scheduler.scheduler import Scheduler

GRACE_S = 0.3


class EchoWorker(worker_pb2_grpc.WorkerServicer):
    """Reads prompts as strings and writes `<prompt>`; remembers every command that it was sent.

    `gate`: tasks of the kinds in `gated` wait for it. `faults`: raised by the next tasks, in order.
    `held`, `refused`: prompts after which it writes once the gate is open, and after which it cannot write.
    `together`: reports that are there at the same time travel in one message.
    """

    def __init__(self, worker_id: str, engines: list[worker_pb2.EngineInfo]) -> None:
        self.id = worker_id
        self.engines = engines
        self.gate = asyncio.Event()
        self.gated: set[type] = set()
        self.faults: list[value_pb2.Fault] = []
        self.held: set[str] = set()
        self.refused: set[str] = set()
        self.step = 1
        self.together = False
        self.commands: list[worker_pb2.Command] = []
        self.contexts: dict[tuple[str, str], str] = {}
        self._values: dict[tuple[str, str], Datum] = {}
        self._known = asyncio.Event()
        self._tasks: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._server = grpc.aio.server(options=server_options())
        self.reports: asyncio.Queue[worker_pb2.Report] = asyncio.Queue()
        self._membership: asyncio.Task[None] | None = None
        self.info = worker_pb2.WorkerInfo()

    async def start(self, orchestrator: str) -> None:
        worker_pb2_grpc.add_WorkerServicer_to_server(self, self._server)
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        joined = asyncio.get_running_loop().create_future()
        self.info = worker_pb2.WorkerInfo(
            worker_id=self.id, address=f"127.0.0.1:{port}", engines=self.engines, version="0"
        )
        self._membership = asyncio.create_task(self._join(orchestrator, joined))
        assert await joined

    async def Describe(self, request: worker_pb2.DescribeRequest, context: Any) -> worker_pb2.WorkerInfo:
        return self.info

    async def _join(self, orchestrator: str, joined: asyncio.Future[bool]) -> None:
        async with grpc.aio.insecure_channel(orchestrator) as channel:
            async for event in orchestrator_pb2_grpc.OrchestratorStub(channel).Join(self.info):
                joined.set_result(event.accepted)

    async def stop(self) -> None:
        """Vanish, as a killed process does: at once, with all streams."""
        await self._server.stop(0)
        for task in [*self._tasks.values(), self._membership]:
            if task:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    def FetchKv(self, request: worker_pb2.FetchKvRequest, context: Any) -> Any:
        raise AssertionError("nobody is told to fetch KV from a worker that has none")

    async def Execute(self, request_iterator: Any, context: Any) -> AsyncIterator[worker_pb2.Reports]:
        reader = asyncio.create_task(self._read(request_iterator))
        try:
            while True:
                reports = [await self.reports.get()]
                while self.together and not self.reports.empty():
                    reports.append(self.reports.get_nowait())
                yield worker_pb2.Reports(reports=reports)
        finally:
            reader.cancel()

    async def _read(self, messages: AsyncIterator[worker_pb2.Commands]) -> None:
        async for message in messages:
            for command in message.commands:
                self._obey(command)

    def _obey(self, command: worker_pb2.Command) -> None:
        self.commands.append(command)
        match command.WhichOneof("command"):
            case "batch":
                for fragment in command.batch.fragments:
                    self._learn(fragment.run, fragment.values)
                    for task in fragment.tasks:
                        running = asyncio.create_task(self._run(fragment.run, task))
                        self._tasks[fragment.run, task.id] = running
            case "cancel":
                self._cancel(command.cancel)
            case "release":
                self._release(command.release)

    def _learn(self, run: str, values: Any) -> None:
        for key, message in values.items():
            self._set(run, key, decode_datum(message))

    def _set(self, run: str, key: str, datum: Datum) -> None:
        if isinstance(datum, KvValue):
            read = "".join(strip(s.text.text, s.strip) for s in datum.segments)
            self.contexts.setdefault((run, key), read)
        self._values[run, key] = datum
        self._known.set()
        self._known = asyncio.Event()

    def _cancel(self, cancel: worker_pb2.Cancel) -> None:
        for run, node in list(self._tasks):
            if run == cancel.run and (not cancel.nodes or node in cancel.nodes):
                self._tasks.pop((run, node)).cancel()

    def _release(self, release: worker_pb2.Release) -> None:
        for table in (self.contexts, self._values):
            for key in release.keys or [key for run, key in table if run == release.run]:
                table.pop((release.run, key), None)

    async def _run(self, run: str, task: worker_pb2.Task) -> None:
        node = decode_node(graph_pb2.Node.FromString(task.node))
        keys = {name: str(value) for name, value in node.args.items()}
        while not all((run, key) in self._values for key in keys.values()):
            await self._known.wait()
        prompt = self.contexts[run, keys["kv"]] if "kv" in keys and isinstance(node.op, Decode) else None
        if type(node.op) in self.gated or prompt in self.held:
            await self.gate.wait()
        if prompt in self.refused:
            self.faults.append(value_pb2.Fault(code="too_large", message="it is too long"))
        if self.faults:
            failed = worker_pb2.TaskFailed(
                run=run, node=node.id, attempt=task.attempt, fault=self.faults.pop(0)
            )
            self.reports.put_nowait(worker_pb2.Report(failed=failed))
            return
        results = self._compute(run, node.id, node.op, keys)
        if task.stream:
            assert isinstance(results[-1], TextValue)
            await self.write(run, task, results[-1].text)
        for output, datum in enumerate(results):
            self._set(run, f"%{node.id}.{output}" if output else f"%{node.id}", datum)
        done = worker_pb2.TaskDone(
            run=run,
            node=node.id,
            attempt=task.attempt,
            results=map(encode_datum, results),
            timing=worker_pb2.Timing(
                queued=0.0,
                prefill=1e-6,
                decode=1e-6,
                generated_tokens=3 if isinstance(node.op, Decode) else 0,
            ),
        )
        self.reports.put_nowait(worker_pb2.Report(done=done))

    async def write(self, run: str, task: worker_pb2.Task, text: str) -> None:
        """Stream a text, `step` characters a delta."""
        for start in range(0, len(text), self.step):
            piece = text[start : start + self.step]
            delta = worker_pb2.Delta(run=run, node=task.id, text=piece, attempt=task.attempt)
            self.reports.put_nowait(worker_pb2.Report(delta=delta))

    def text(self, read: str) -> str:
        """What is written after a prompt."""
        return f"<{read}>"

    def _compute(self, run: str, number: int, op: object, keys: dict[str, str]) -> tuple[Datum, ...]:
        values = {name: self._values[run, key] for name, key in keys.items()}
        read = self.contexts[run, keys["kv"]] if "kv" in keys else ""
        match op:
            case Prefill(pieces=pieces):
                for piece in pieces:
                    if isinstance(piece, Fixed):
                        read += piece.text
                    else:
                        read += strip(render(values[piece.name]), piece.strip)
                self.contexts[run, f"%{number}"] = read
                return (KvValue(f"{run}/%{number}"),)
            case Decode():
                text = TextValue(self.text(read), (1, 2), "fingerprint", 1)
                self.contexts[run, f"%{number}"] = read + text.text
                return (KvValue(f"{run}/%{number}"), text)
            case Score(choices=choices):
                return (TextValue(choices[-1]), Json([0.0] * len(choices)))
            case Embed():
                return (VectorsValue(np.ones((1, 2), np.float32)),)
            case Chunk():
                return (Json([{"id": "doc-1#0", "text": "x"}]), Json(["x"]))
            case Upsert():
                return (Json({"passages_added": 1}), EFFECT)
            case Search(index=index):
                return (Json([{"id": "1", "text": f"from {index}", "score": 1.0}]),)
            case Tool(tool=tool):
                return (TextValue(f"{tool}({', '.join(render(v) for v in values.values())})"),)
            case _:
                raise AssertionError(op)

    def fragments(self) -> list[worker_pb2.Fragment]:
        return [fragment for command in self.commands for fragment in command.batch.fragments]

    def nodes(self) -> list[Node]:
        """The nodes of all tasks so far."""
        tasks = (task for fragment in self.fragments() for task in fragment.tasks)
        return [decode_node(graph_pb2.Node.FromString(task.node)) for task in tasks]

    def cancelled(self, run: str) -> bool:
        return any(c.HasField("cancel") and c.cancel.run == run for c in self.commands)


def llm(model: str = "m") -> worker_pb2.EngineInfo:
    info = worker_pb2.LlmInfo(context_length=1000, tokenizer="fingerprint")
    return worker_pb2.EngineInfo(kind="llm", model=model, llm=info, capacity=8)


def retrieval() -> list[worker_pb2.EngineInfo]:
    index = worker_pb2.EngineInfo(kind="index", indexes=[worker_pb2.IndexInfo(name="handbook")])
    tool = worker_pb2.ToolInfo(name="lookup", result=encode_type(TEXT), parameters="{}", idempotent=True)
    return [
        worker_pb2.EngineInfo(kind="embed", model="hash"),
        index,
        worker_pb2.EngineInfo(kind="tool", tools=[tool]),
    ]


@dataclass
class Stage:
    """An orchestrator, a client of it, and its workers."""

    server: Server
    address: str
    stub: Any
    stack: AsyncExitStack
    workers: dict[str, EchoWorker] = field(default_factory=dict)

    async def worker(self, worker_id: str, *engines: worker_pb2.EngineInfo) -> EchoWorker:
        worker = EchoWorker(worker_id, list(engines) or [llm(), *retrieval()])
        await worker.start(self.address)
        self.stack.push_async_callback(worker.stop)
        self.workers[worker_id] = worker
        return worker


Until = Callable[[Callable[[], object]], Awaitable[None]]


@pytest.fixture
def until() -> Until:
    """Wait for something to become true; the test's own timeout is the limit."""

    async def wait(condition: Callable[[], object]) -> None:
        while not condition():
            await asyncio.sleep(0.005)

    return wait


def program(path: Path) -> Path:
    nodes = [
        {"id": 0, "input": {"name": "q", "type": {"text": {}}}},
        {
            "id": 1,
            "args": {"q": {"node": 0}},
            "generate": {
                "messages": [{"role": "raw", "parts": [{"slot": "q"}]}],
                "type": {"text": {}},
            },
        },
    ]
    graph = {"version": 1, "name": "registered", "nodes": nodes, "outputs": [{"node": 1}]}
    path.write_text(json.dumps(graph))
    return path


class Servers:
    """Servers that follow each other over one data folder."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.folder = folder
        self._stack = stack
        self._lives = 0

    async def start(self, **settings: Any) -> Stage:
        """The next server, with no worker."""
        given: dict[str, Any] = {"models": [ModelSettings(name="m", path="none")], "data": self.folder}
        server = Server(
            Settings(listen="127.0.0.1:0", **{**given, **settings}), Scheduler(Policies(grace_s=0.3))
        )
        address = await server.start()
        self._stack.push_async_callback(server.stop)
        channel = await self._stack.enter_async_context(grpc.aio.insecure_channel(address))
        return Stage(server, address, orchestrator_pb2_grpc.OrchestratorStub(channel), self._stack)

    async def crash(self, stage: Stage, run: str) -> None:
        """Let the next server find what this one has written by now."""
        await stage.server.orchestrator.keeping.written(run)
        self._lives += 1
        copy = self.folder.with_name(f"{self.folder.name}-{self._lives}")
        copy.mkdir()
        for file in self.folder.glob(f"{FILE}*"):
            shutil.copy(file, copy / file.name)
        self.folder = copy
        await stage.server.stop()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """While it is not set, the disk of a journal hangs."""
    goes, commit = threading.Event(), Journal._commit
    goes.set()

    def when_it_goes(journal: Journal, batch: list[Any]) -> Any:
        goes.wait()
        return commit(journal, batch)

    monkeypatch.setattr(Journal, "_commit", when_it_goes)
    yield goes
    goes.set()


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[Servers]:
    """One server after the other, none of them with a worker."""
    async with AsyncExitStack() as stack:
        yield Servers(tmp_path / "data", stack)


@pytest.fixture
def overrides() -> dict[str, Any]:
    """Settings that a test wants otherwise."""
    return {}


@pytest.fixture
async def bare(tmp_path: Path, overrides: dict[str, Any]) -> AsyncIterator[Stage]:
    """An orchestrator without workers."""
    settings = Settings(
        listen="127.0.0.1:0",
        data=tmp_path,
        models=[ModelSettings(name="m", path="none")],
        programs={"registered": program(tmp_path / "p.json"), "gone": tmp_path / "gone.json"},
        max_message_mb=1,
        **overrides,
    )
    async with AsyncExitStack() as stack:
        server = Server(settings, Scheduler(Policies(grace_s=GRACE_S)))
        address = await server.start()
        stack.push_async_callback(server.stop)
        channel = await stack.enter_async_context(
            grpc.aio.insecure_channel(address, [("grpc.max_send_message_length", -1)])
        )
        yield Stage(server, address, orchestrator_pb2_grpc.OrchestratorStub(channel), stack)


@pytest.fixture
async def stage(bare: Stage) -> Stage:
    """An orchestrator with one worker, `w1`, that offers everything."""
    await bare.worker("w1")
    return bare
