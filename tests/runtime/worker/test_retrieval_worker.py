"""A worker with embed, index and rerank engines, driven over gRPC."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from weft.graph.ir import Node, Value
from weft.graph.ops.common import Embed, Neighbours, Search, SearchMode
from weft.graph.ops.primitive import Chunk, Upsert
from weft.graph.ops.user import Chunking, Rerank
from weft.graph.values import EFFECT, Datum, Json, TextValue, VectorsValue
from weft.runtime.retrieval.errors import IndexBusyError
from weft.runtime.retrieval.hashing import HashEmbedder
from weft.runtime.retrieval.index import IndexStore
from weft.runtime.retrieval.lance import LanceTables
from weft.runtime.worker.engines.base import StartError
from weft.runtime.worker.engines.embed import EmbedEngine
from weft.runtime.worker.engines.index import IndexEngine
from weft.runtime.worker.engines.rerank import RerankEngine

from .conftest import Link, StartWorker

DOCUMENTS = [
    {"id": "a.md", "text": "Hipujas was founded in 1987.\n\nIt makes wool.", "source": "a.md"},
    {"id": "b.md", "text": "Puven opened its doors in 1989.", "metadata": {"topic": "companies"}},
]


@pytest.fixture
async def worker(start_worker: StartWorker, tmp_path: Path) -> Link:
    return await start_worker(
        EmbedEngine(None), IndexEngine(LanceTables(tmp_path / "indexes"), HashEmbedder.name)
    )


def embed(number: int, texts: Value) -> Node:
    return Node(number, Embed(), {"texts": texts})


def ingest(index: str = "facts") -> tuple[Node, ...]:
    """Nodes 1 to 3: value %0 into an index."""
    return (
        Node(1, Chunk(index), {"documents": Value(0)}),
        embed(2, Value(1, 1)),
        Node(3, Upsert(index), {"chunks": Value(1), "vectors": Value(2)}),
    )


def search(query: Value, k: Value, mode: SearchMode = "hybrid", index: str = "facts") -> tuple[Node, ...]:
    """Nodes 11 and 12: search for a query."""
    return embed(11, query), Node(12, Search(index, mode), {"query": query, "k": k, "vectors": Value(11)})


async def fill(worker: Link, documents: object = DOCUMENTS, run: str = "fill") -> tuple[Datum, ...]:
    await worker.run(*ingest(), run=run, values={"%0": Json(documents)})
    return await worker.results(3, run)


async def ids(worker: Link, node: int = 12, run: str = "r") -> list[str]:
    (passages,) = await worker.results(node, run)
    assert isinstance(passages, Json)
    return [passage["id"] for passage in passages.value]


async def test_what_was_ingested_is_found(worker: Link) -> None:
    report, effect = await fill(worker)
    assert isinstance(report, Json)
    assert (report.value["passages_added"], report.value["passages_replaced"], effect) == (3, 0, EFFECT)
    values: dict[str, Datum] = {"%0": TextValue("Who makes wool?"), "%9": Json(2)}
    await worker.run(*search(Value(0), Value(9)), values=values)
    (found,) = await worker.results(12)
    assert isinstance(found, Json)
    assert found.value[0]["id"] == "a.md#2"
    assert found.value[0]["text"] == "It makes wool."
    assert found.value[0]["source"] == "a.md"
    assert len(found.value) == 2


async def test_several_queries_are_merged_without_repetition(worker: Link) -> None:
    await fill(worker)
    queries = Json(["wool", "Puven 1989", "wool"])
    await worker.run(*search(Value(0), Value(9)), values={"%0": queries, "%9": Json(1)})
    assert await ids(worker) == ["a.md#2", "b.md#1"]


async def test_lexical_search_needs_no_vectors(worker: Link) -> None:
    await fill(worker)
    node = Node(12, Search("facts", "lexical"), {"query": Value(0), "k": Value(9)})
    await worker.run(node, values={"%0": TextValue("Puven"), "%9": Json(5)})
    assert await ids(worker) == ["b.md#1"]


async def test_a_search_finds_only_what_meets_its_condition(worker: Link) -> None:
    await fill(worker)
    node = Node(12, Search("facts", "lexical"), {"query": Value(0), "k": Value(9), "where": Value(8)})
    asked: dict[str, Datum] = {"%0": TextValue("Puven Hipujas"), "%9": Json(5)}
    await worker.run(node, values={**asked, "%8": Json({"topic": ["companies"]})})
    await worker.run(node, run="all", values={**asked, "%8": Json({})})
    await worker.run(node, run="wrong", values={**asked, "%8": Json(["topic"])})
    assert await ids(worker) == ["b.md#1"]
    assert await ids(worker, run="all") == ["a.md#1", "b.md#1"]
    fault = await worker.fault(12, "wrong")
    assert (fault.code, "where must be an object" in fault.message) == ("invalid", True)


async def test_searches_of_many_runs_each_get_their_own(worker: Link) -> None:
    await fill(worker)
    queries = {"wool": "a.md#2", "Puven": "b.md#1", "Hipujas 1987": "a.md#1"}
    modes: tuple[SearchMode, ...] = ("hybrid", "vector", "lexical")
    runs = [(f"{query}/{mode}/{n}", query, mode) for query in queries for mode in modes for n in range(4)]
    for run, query, mode in runs:
        values: dict[str, Datum] = {"%0": TextValue(query), "%9": Json(1)}
        await worker.run(*search(Value(0), Value(9), mode), run=run, values=values)
    for run, query, _ in runs:
        assert await ids(worker, run=run) == [queries[query]]


async def test_documents_that_have_not_changed_are_neither_embedded_nor_stored(worker: Link) -> None:
    first, _ = await fill(worker)
    again, effect = await fill(worker, run="again")
    assert isinstance(first, Json)
    assert again == Json({"passages_added": 0, "passages_replaced": 0, "version": first.value["version"]})
    assert effect == EFFECT
    changed = [DOCUMENTS[0], {"id": "b.md", "text": "Puven opened its doors in 1989."}]
    report, _ = await fill(worker, changed, run="changed")
    _, texts = await worker.results(1, "changed")
    assert texts == Json(["Puven opened its doors in 1989."])
    assert isinstance(report, Json)
    assert (report.value["passages_added"], report.value["passages_replaced"]) == (0, 1)


async def test_passages_come_with_their_neighbours(worker: Link) -> None:
    await fill(worker)
    found = [{"id": "b.md#1", "text": ""}, {"id": "a.md#2", "text": "", "score": 0.5}]
    node = Node(12, Neighbours("facts"), {"passages": Value(0)})
    await worker.run(node, values={"%0": Json(found)})
    assert await ids(worker) == ["b.md#1", "a.md#1", "a.md#2"]
    foreign = [*found, {"id": "z.md#1", "text": ""}]
    await worker.run(node, run="foreign", values={"%0": Json(foreign)})
    fault = await worker.fault(12, "foreign")
    assert fault.code == "invalid"
    assert "passage 'z.md#1' is of no document of this index" in fault.message


async def test_an_equal_search_is_taken_until_the_index_changes(
    start_worker: StartWorker, tmp_path: Path
) -> None:
    engine = IndexEngine(LanceTables(tmp_path / "indexes"), HashEmbedder.name, cache_bytes=1 << 20)
    worker = await start_worker(EmbedEngine(None), engine)
    await fill(worker)

    async def found(run: str, query: str, k: int, namespace: str = "") -> tuple[list[str], bool]:
        values: dict[str, Datum] = {"%0": TextValue(query), "%9": Json(k)}
        await worker.run(*search(Value(0), Value(9)), run=run, values=values, namespace=namespace)
        return await ids(worker, run=run), (await worker.done(12, run)).timing.reused

    assert await found("1", "wool", 2) == (["a.md#2", "a.md#1"], False)
    assert await found("2", "wool", 2) == (["a.md#2", "a.md#1"], True)
    assert await found("3", "wool", 1) == (["a.md#2"], False)
    assert await found("4", "wool", 2, namespace="other") == (["a.md#2", "a.md#1"], False)
    await fill(worker, [{"id": "a.md", "text": "Nothing about sheep."}], run="again")
    after, reused = await found("5", "wool", 2)
    assert "a.md#2" not in after
    assert not reused


async def test_texts_get_ids_by_their_place(worker: Link) -> None:
    await worker.run(ingest()[0], values={"%0": Json(["one", "two\n\nthree"])})
    chunks, texts = await worker.results(1)
    assert isinstance(chunks, Json)
    assert [chunk["id"] for chunk in chunks.value] == ["doc-1#1", "doc-2#1", "doc-2#2"]
    assert texts == Json(["one", "two", "three"])


async def test_documents_are_cut_as_asked(worker: Link) -> None:
    node = Node(1, Chunk("facts", Chunking("fixed", 10, 2)), {"documents": Value(0)})
    await worker.run(node, values={"%0": Json(["aaa bbb ccc ddd"])})
    _, texts = await worker.results(1)
    assert isinstance(texts, Json)
    assert len(texts.value) == 2
    assert all(len(text) <= 10 for text in texts.value)


async def test_the_status_names_an_index_once_it_is_there(worker: Link) -> None:
    assert not worker.info.engines[1].indexes
    await fill(worker)

    def index_is_known() -> bool:
        return any(report.status.indexes for report in worker.reports)

    await worker.until(index_is_known)
    (index,) = next(report.status.indexes for report in worker.reports if report.status.indexes)
    assert (index.name, index.passages, index.embedder) == ("facts", 3, HashEmbedder.name)


async def test_an_index_outlives_its_worker(start_worker: StartWorker, tmp_path: Path) -> None:
    first = IndexEngine(LanceTables(tmp_path), HashEmbedder.name)
    await fill(await start_worker(EmbedEngine(None), first))
    again = IndexEngine(LanceTables(tmp_path), HashEmbedder.name)
    await again.start()
    assert [index.name for index in again.info().indexes] == ["facts"]
    await again.stop()


async def wait_for_tidying(worker: Link) -> None:
    """It has had its turn: what is cut after it is."""
    await worker.run(ingest()[0], run="after", values={"%0": Json(["text"])})
    await worker.results(1, "after")


async def test_indexes_are_tidied_up_after_writes(
    start_worker: StartWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weft.runtime.retrieval.tables._TIDY_EVERY", 3)
    worker = await start_worker(EmbedEngine(None), IndexEngine(LanceTables(tmp_path), HashEmbedder.name))
    for number in range(3):
        await fill(worker, [{"id": f"{number}.md", "text": f"Wool {number}."}], run=f"fill {number}")
    await wait_for_tidying(worker)
    versions = list(tmp_path.glob("facts.lance/_versions/*.manifest"))
    assert len(versions) > 3  # the old ones are too new to go, that of the merged files is there
    values: dict[str, Datum] = {"%0": TextValue("wool"), "%9": Json(9)}
    await worker.run(*search(Value(0), Value(9)), values=values)
    assert await ids(worker) == ["0.md#1", "1.md#1", "2.md#1"]


async def test_tidying_that_fails_is_logged_and_no_fault_of_the_ingest(
    start_worker: StartWorker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def busy(_: IndexStore, name: str) -> None:
        raise IndexBusyError(f"{name} is busy")

    monkeypatch.setattr("weft.runtime.retrieval.tables._TIDY_EVERY", 1)
    monkeypatch.setattr(IndexStore, "tidy", busy)
    worker = await start_worker(EmbedEngine(None), IndexEngine(LanceTables(tmp_path), HashEmbedder.name))
    report, _ = await fill(worker)
    assert isinstance(report, Json)
    assert report.value["passages_added"] == 3
    await wait_for_tidying(worker)
    assert "index 'facts' was not tidied up: facts is busy" in caplog.messages


async def test_one_vector_per_text(worker: Link) -> None:
    await worker.run(embed(1, Value(0)), values={"%0": Json(["a", "b", "a"])})
    await worker.run(embed(1, Value(0)), run="s", values={"%0": TextValue("a")})
    await worker.run(embed(1, Value(0)), run="t", values={"%0": Json([])})
    (many,), (one,), (none,) = [await worker.results(1, run) for run in ("r", "s", "t")]
    assert isinstance(many, VectorsValue)
    assert isinstance(one, VectorsValue)
    assert isinstance(none, VectorsValue)
    assert many.array.shape == (3, one.array.shape[1])
    assert none.array.shape == (0, one.array.shape[1])
    assert np.array_equal(many.array[[0, 2]], one.array[[0, 0]])


@pytest.mark.parametrize(
    ("documents", "words"),
    [
        ("text", "documents must be a list, not str"),
        ([1], "documents[0]: a document must be a JSON object"),
        ([{"text": "x"}], "documents[0]: document.id is missing"),
        ([{"id": "a", "text": 1}], "documents[0]: document.text must be a string"),
    ],
)
async def test_bad_documents_are_refused(worker: Link, documents: object, words: str) -> None:
    await worker.run(ingest()[0], values={"%0": Json(documents)})
    fault = await worker.fault(1)
    assert fault.code == "invalid"
    assert words in fault.message


async def test_documents_of_one_id_are_refused(worker: Link) -> None:
    await worker.run(*ingest(), values={"%0": Json([DOCUMENTS[1], DOCUMENTS[1]])})
    fault = await worker.fault(1)
    assert fault.code == "invalid"
    assert "'b.md#1'" in fault.message


async def test_an_unknown_index_is_a_fault_that_names_the_known_ones(worker: Link) -> None:
    await fill(worker)
    values: dict[str, Datum] = {"%0": TextValue("wool"), "%9": Json(1)}
    await worker.run(*search(Value(0), Value(9), index="fact"), values=values)
    await worker.run(*search(Value(0), Value(9)), run="s", values=values)
    fault = await worker.fault(12)
    assert fault.code == "not_found"
    assert "'fact'" in fault.message
    assert "'facts'" in fault.message
    assert await ids(worker, run="s") == ["a.md#2"]


@pytest.mark.parametrize("k", [0, -1, True, 1.5, "3"])
async def test_a_bad_k_is_refused(worker: Link, k: object) -> None:
    await fill(worker)
    await worker.run(*search(Value(0), Value(9)), values={"%0": TextValue("wool"), "%9": Json(k)})
    fault = await worker.fault(12)
    assert (fault.code, fault.message) == ("invalid", f"k must be an integer from 1, not {k!r}")


async def test_vectors_that_do_not_belong_to_the_queries_are_refused(worker: Link) -> None:
    await fill(worker)
    node = search(Value(0), Value(9))[1]
    few = VectorsValue(np.zeros((1, 8), np.float32))
    short = VectorsValue(np.zeros((2, 8), np.float32))
    queries, k = Json(["a", "b"]), Json(1)
    await worker.run(node, values={"%0": queries, "%9": k, "%11": few})
    await worker.run(node, run="s", values={"%0": queries, "%9": k, "%11": short})
    assert (await worker.fault(12)).message == "2 queries came with 1 vectors"
    assert (await worker.fault(12, "s")).code == "invalid"


class WordCounter:
    """A reranker: the score of a passage is the number of the query's words in it."""

    name = "word-counter"

    def __init__(self) -> None:
        self.batches: list[int] = []

    def score(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        self.batches.append(len(pairs))
        return np.array([len(set(q.split()) & set(text.split())) for q, text in pairs], np.float32)


async def test_passages_are_reranked(start_worker: StartWorker) -> None:
    counter = WordCounter()
    worker = await start_worker(RerankEngine("", counter))
    passages = Json([{"id": "1", "text": "x y"}, {"id": "2", "text": "a x"}, {"id": "3", "text": "a b c"}])
    node = Node(5, Rerank(), {"query": Value(0), "passages": Value(1), "k": Value(2)})
    values: dict[str, Datum] = {"%0": TextValue("a b c"), "%1": passages, "%2": Json(2)}
    for run in "pqrs":  # one after another: a stream takes one write at a time
        await worker.run(node, run=run, values=values)
    for run in "pqrs":
        assert await ids(worker, 5, run) == ["3", "2"]
    assert sum(counter.batches) == 12
    await worker.run(node, run="bad", values={**values, "%1": Json([{"id": "1"}])})
    fault = await worker.fault(5, "bad")
    assert (fault.code, fault.message) == ("invalid", "passage.text is missing")


@pytest.mark.parametrize("engine", [EmbedEngine("/nowhere"), RerankEngine("/nowhere")])
async def test_a_missing_model_is_one_clear_line(engine: EmbedEngine | RerankEngine) -> None:
    with pytest.raises(StartError, match=r"^(embedder|reranker): model folder '/nowhere' does not exist$"):
        await engine.start()
