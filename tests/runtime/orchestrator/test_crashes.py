"""A server that dies after any of the things that its journal is given."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from weft.graph.ir import Graph, Node, Value
from weft.graph.ops.common import Const, Equals, Format, Input, Interrupt, Search, Tool
from weft.graph.ops.control import Cond, Loop, Map
from weft.graph.ops.user import Generate
from weft.graph.prompt import Slot
from weft.graph.sampling import JsonSchema, Sampling
from weft.graph.types import BOOLEAN, INTEGER, TEXT, Data
from weft.graph.values import Datum, TextValue
from weft.proto import orchestrator_pb2 as pb
from weft.proto import worker_pb2
from weft.runtime.orchestrator.journal import Journal, open_journal
from weft.runtime.orchestrator.journal_file import FILE

from .conftest import EchoWorker, Servers, Stage
from .restarts import raw, submit, worker
from .test_interrupt import outcome, resume

TEXTS = Data('{"items":{"type":"string"},"type":"array"}')
SEND = Tool("send", TEXT, "server")
ITEM = Graph(
    (
        Node(0, Input(Map.ITEM)),
        Node(1, Const("1", INTEGER)),
        Node(2, Search("handbook"), {"query": Value(0), "k": Value(1)}),
        Node(3, SEND, {"about": Value(2), "text": Value(0)}),
        Node(4, Interrupt(TEXT), {"value": Value(3)}),
        Node(5, Format((Slot("a"), "; ", Slot("b"))), {"a": Value(3), "b": Value(4)}),
    ),
    (Value(5),),
    "item",
)
TURN = Graph(
    (
        Node(0, Input(Loop.STATE)),
        Node(1, SEND, {"text": Value(0)}),
        Node(2, Interrupt(BOOLEAN), {"value": Value(1)}),
    ),
    (Value(1), Value(2)),
    "turn",
)
THEN = Graph((Node(0, Input("x")), Node(1, SEND, {"text": Value(0)})), (Value(1),), "then")
OTHERWISE = Graph((Node(0, Input("x")),), (Value(0),), "otherwise")
NODES = (
    Node(0, Input("q")),
    Node(
        1,
        Generate(raw("List ", Slot("q")), TEXTS, Sampling(temperature=1.0), JsonSchema(TEXTS.schema)),
        {"q": Value(0)},
    ),
    Node(2, Map(ITEM, 1), {"items": Value(1)}),
    Node(3, Loop(TURN, 3), {"state": Value(0)}),
    Node(4, Equals(), {"a": Value(0), "b": Value(0)}),
    Node(5, Cond(THEN, OTHERWISE), {"predicate": Value(4), "x": Value(3)}),
    Node(6, Generate(raw(Slot("a"), " and ", Slot("b"))), {"a": Value(2), "b": Value(5)}),
)


class Recorder(EchoWorker):
    """Writes lists where it is asked to, and remembers what its tools have given."""

    def __init__(self, worker_id: str, engines: list[worker_pb2.EngineInfo]) -> None:
        super().__init__(worker_id, engines)
        self.sent: list[str] = []

    def text(self, read: str) -> str:
        return '["a", "a", "b"]' if read.startswith("List ") else super().text(read)

    def _compute(self, run: str, number: int, op: object, keys: dict[str, str]) -> tuple[Datum, ...]:
        results = super()._compute(run, number, op, keys)
        if isinstance(op, Tool):
            (text,) = results
            assert isinstance(text, TextValue)
            self.sent.append(text.text)
        return results


async def answered(stage: Stage, run: str) -> pb.RunResult:
    """How a run ends whose questions are answered by what they ask."""
    ending = asyncio.ensure_future(outcome(stage, run))
    while not ending.done():
        infos = (await stage.stub.ListRuns(pb.ListRunsRequest())).runs
        for asked in next(info for info in infos if info.run == run).waiting:
            again = "send(send(" in json.loads(asked.value)
            answer = again if "boolean" in asked.type else f"yes, {json.loads(asked.value)}"
            with suppress(grpc.aio.AioRpcError):  # the run has failed meanwhile
                await resume(stage, run, answer, node=asked.node)
        await asyncio.sleep(0.002)
    return await ending


async def test_whatever_a_server_had_written_when_it_died_the_run_ends_alike(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or it fails, if a tool had begun that must not run twice; and no tool has run twice."""
    writes: list[tuple[str, tuple[Any, ...]]] = []
    for name in ("submit", "begin", "put"):
        plain = getattr(Journal, name)

        def noted(journal: Journal, *given: Any, name: str = name, plain: Any = plain) -> Any:
            writes.append((name, given))
            return plain(journal, *given)

        monkeypatch.setattr(Journal, name, noted)
    stage = await servers.start()
    first = await worker(stage, Recorder)
    run = await submit(stage, NODES)
    whole = await answered(stage, run)
    assert whole.info.state == "done", whole.fault
    await stage.server.stop()
    monkeypatch.undo()
    results = {given[1]: given[2] for name, given in writes if name == "put"}
    texts = {
        place: next(text_of(kept) for key, kept in results.items() if key.endswith(place.encode()))
        for place in (given[1] for name, given in writes if name == "begin")
    }
    assert Counter(texts.values()) == Counter(first.sent)
    assert len(texts) == 3 + 2 + 1
    for length in range(1, len(writes) + 1):
        servers.folder = servers.folder.with_name(f"after {length}")
        await leave(servers.folder / FILE, writes[:length])
        begun = {given[1] for name, given in writes[:length] if name == "begin"}
        keys = [given[1] for name, given in writes[:length] if name == "put"]
        cut_off = {place for place in begun if not any(key.endswith(place.encode()) for key in keys)}
        stage = await servers.start()
        second = await worker(stage, Recorder)
        result = await answered(stage, run)
        in_all = Counter(texts[place] for place in begun) + Counter(second.sent)
        if cut_off:
            assert result.fault.code == "worker_lost"
            assert in_all <= Counter(first.sent)
        else:
            assert result.outputs == whole.outputs, result.fault
            assert in_all == Counter(first.sent)
        await stage.server.stop()


def text_of(kept: bytes) -> str:
    return str(worker_pb2.TaskDone.FromString(kept).results[0].text.text)


async def leave(file: Path, writes: list[tuple[str, tuple[Any, ...]]]) -> None:
    """A journal that has been given just these."""
    journal, _ = open_journal(file, 2**24)
    for name, given in writes:
        getattr(journal, name)(*given)
    await journal.close()
