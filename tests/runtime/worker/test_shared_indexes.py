"""Two workers whose indexes lie in one database, driven over gRPC."""

from __future__ import annotations

import asyncio

import pytest

from weft.graph.ir import Node, Value
from weft.graph.ops.common import Search
from weft.graph.values import Datum, Json, TextValue
from weft.proto import value_pb2
from weft.runtime.config import WorkerConfig
from weft.runtime.retrieval.documents import Chunk
from weft.runtime.retrieval.hashing import HashEmbedder
from weft.runtime.retrieval.place import index_tables
from weft.runtime.worker.build import build_engines
from weft.runtime.worker.engines.base import StartError
from weft.runtime.worker.engines.embed import EmbedEngine
from weft.runtime.worker.engines.index import IndexEngine

from ...places import Place
from ...postgres import Postgres
from .conftest import Link, StartWorker
from .test_retrieval_worker import fill, ids, ingest


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("engines.index._LOOK_S", "session._LOOK_S", "session._STATUS_S"):
        monkeypatch.setattr(f"weft.runtime.worker.{name}", 0.05)


def engine(database: Place) -> IndexEngine:
    tables = index_tables(database.url, database.data)
    return IndexEngine(tables, HashEmbedder.name, cache_bytes=1 << 20)


@pytest.fixture
async def workers(start_worker: StartWorker, database: Place) -> list[Link]:
    return [await start_worker(EmbedEngine(None), engine(database)) for _ in range(2)]


async def look_for(worker: Link, query: str, run: str) -> None:
    node = Node(12, Search("facts", "lexical"), {"query": Value(0), "k": Value(9)})
    values: dict[str, Datum] = {"%0": TextValue(query), "%9": Json(5)}
    await worker.run(node, run=run, values=values)


async def test_a_search_sees_what_the_other_worker_has_just_stored(workers: list[Link]) -> None:
    for number in range(10):
        stores, finds = workers[number % 2], workers[1 - number % 2]
        await fill(stores, [{"id": "a.md", "text": f"wool of edition{number}"}], run=f"fill{number}")
        for attempt in range(2):  # the second takes the results of the first
            await look_for(finds, f"edition{number}", f"find{number}.{attempt}")
            assert await ids(finds, run=f"find{number}.{attempt}") == ["a.md#1"]
    await look_for(workers[0], "edition8", "old")
    assert await ids(workers[0], run="old") == []


async def test_documents_that_the_other_worker_has_stored_cost_nothing(workers: list[Link]) -> None:
    await fill(workers[0])
    report, _ = await fill(workers[1], run="again")
    assert isinstance(report, Json)
    assert (report.value["passages_added"], report.value["passages_replaced"]) == (0, 0)


async def test_a_worker_lists_what_the_other_has_made_with_nothing_asked_of_it(workers: list[Link]) -> None:
    await fill(workers[0])

    def listed() -> list[tuple[str, int]]:
        status = [report.status for report in workers[1].reports if report.HasField("status")]
        return [(index.name, index.passages) for index in status[-1].indexes] if status else []

    assert await workers[1].until(listed) == [("facts", 3)]


async def test_without_the_database_tasks_fail_for_now(
    workers: list[Link], postgres: Postgres, database: Place
) -> None:
    await fill(workers[0])
    postgres.crash()
    try:
        await look_for(workers[0], "wool", "without")
        await workers[1].run(*ingest(), run="without", values={"%0": Json(["text"])})
        faults: list[value_pb2.Fault] = [
            await workers[0].fault(12, "without"),
            await workers[1].fault(1, "without"),
        ]
    finally:
        postgres.start()
    assert [(fault.code, fault.retryable) for fault in faults] == [("internal", True)] * 2
    assert "cannot be used" in faults[0].message
    await look_for(workers[0], "wool", "with")
    assert await ids(workers[0], run="with") == ["a.md#2"]
    with pytest.raises(StartError, match='database "nowhere" does not exist'):
        await engine(Place(postgres.url("nowhere"), database.data)).start()


async def test_an_index_that_cannot_be_read_is_logged_once(
    postgres: Postgres,
    database: Place,
    database_name: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    chunk = Chunk("a#1", "a", "wool", "", 1)
    database.store().upsert("facts", [chunk], HashEmbedder().embed(["wool"]), HashEmbedder.name)
    postgres.execute("UPDATE weft_indexes.indexes SET format = 'strange'", database_name)
    looked = asyncio.Semaphore(0)
    loop = asyncio.get_running_loop()
    tables = index_tables(database.url, database.data)
    names = tables.names

    def counted() -> list[str]:
        loop.call_soon_threadsafe(looked.release)
        return names()

    monkeypatch.setattr(tables, "names", counted)
    third = IndexEngine(tables, HashEmbedder.name)
    await third.start()
    for _ in range(5):
        await looked.acquire()
    await third.stop()
    assert not third.info().indexes
    (told,) = caplog.messages
    assert "index 'facts' was not written by this version of weft (format 'strange'" in told


def test_a_url_that_cannot_be_read_keeps_a_worker_from_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFT_INDEXES", "postgresql://weft:hidden@[x/indexes")
    with pytest.raises(StartError, match=r"`indexes` \(WEFT_INDEXES\) cannot be read; write it") as raised:
        build_engines(WorkerConfig(kinds=("index",), orchestrator="unix:o"))
    assert "hidden" not in str(raised.value)
