from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from weft.graph.ops.user import Chunking
from weft.runtime.retrieval.chunking import chunk
from weft.runtime.retrieval.documents import Chunk, Document, Passage
from weft.runtime.retrieval.embedder import HashEmbedder
from weft.runtime.retrieval.errors import (
    IndexMismatchError,
    UnknownIndexError,
)
from weft.runtime.retrieval.index import IndexInfo, IndexStore, IngestReport
from weft.runtime.retrieval.snapshot import Mode

from ...places import Place

EMBEDDER = HashEmbedder()
PARAGRAPHS = "Puven makes glass in Fiba.\n\nBilel sells salt.\n\nThe mayor of Fiba likes salt and glass."


def chunks_of(id: str, text: str = PARAGRAPHS) -> list[Chunk]:
    return chunk(Document(id, text, f"{id}!", {"n": 1}), Chunking())


def vectors_of(texts: list[str]) -> NDArray[np.float32]:
    return EMBEDDER.embed(texts)


def put(store: IndexStore, name: str, chunks: list[Chunk]) -> IngestReport:
    return store.upsert(name, chunks, vectors_of([each.text for each in chunks]), EMBEDDER.name)


def find(store: IndexStore, query: str, k: int = 10, mode: Mode = "hybrid") -> list[str]:
    return [each.id for each in store.search("demo", [query], vectors_of([query]), [k], mode)[0]]


@pytest.fixture
def store(place: Place) -> IndexStore:
    made = place.store()
    put(made, "demo", chunks_of("a.md"))
    return made


@pytest.mark.parametrize("mode", ["lexical", "vector", "hybrid"])
def test_each_mode_finds_the_passage_with_its_fields(store: IndexStore, mode: Mode) -> None:
    (found,) = store.search("demo", ["Who sells salt?"], vectors_of(["Who sells salt?"]), [1], mode)[0]
    assert (found.id, found.text, found.source) == ("a.md#2", "Bilel sells salt.", "a.md!")
    assert found.metadata == {"n": 1}
    assert found.score > 0


def test_lexical_search_finds_only_what_shares_a_term(store: IndexStore) -> None:
    assert find(store, "fiba", mode="lexical") == ["a.md#1", "a.md#3"]
    assert find(store, "zebra", mode="lexical") == []
    assert store.search("demo", ["fiba"], None, [1], "lexical")[0][0].id == "a.md#1"


def test_k_may_exceed_the_index_and_differs_by_query(store: IndexStore) -> None:
    queries = ["salt", "glass", "mayor"]
    found = store.search("demo", queries, vectors_of(queries), [99, 1, 2], "vector")
    assert [len(each) for each in found] == [3, 1, 2]
    assert store.search("demo", [], None, [], "lexical") == []


def test_repeating_an_upsert_changes_nothing(store: IndexStore) -> None:
    before = store.search("demo", ["salt"], vectors_of(["salt"]), [9], "hybrid")
    report = put(store, "demo", chunks_of("a.md"))
    assert (report.passages_added, report.passages_replaced) == (0, 3)
    assert store.search("demo", ["salt"], vectors_of(["salt"]), [9], "hybrid") == before
    assert store.describe("demo") == IndexInfo("demo", 3, "weft-hash-v1", EMBEDDER.dimension, report.version)


def test_documents_have_changed_if_anything_of_a_chunk_has(store: IndexStore) -> None:
    chunks = [*chunks_of("a.md"), *chunks_of("b.md")]
    assert store.changed("demo", chunks, EMBEDDER.name) == chunks[3:]
    put(store, "demo", chunks[3:])
    assert store.changed("demo", chunks, EMBEDDER.name) == []
    other = [replace(each, metadata={"n": 2}) for each in chunks_of("a.md")]
    shorter = chunks_of("b.md")[:2]
    assert store.changed("demo", [*other, *shorter], EMBEDDER.name) == [*other, *shorter]
    assert store.changed("new", chunks, EMBEDDER.name) == chunks
    with pytest.raises(IndexMismatchError):
        store.changed("demo", chunks, "another")
    with pytest.raises(ValueError, match="no passages to ingest"):
        store.changed("demo", [], EMBEDDER.name)


def test_neighbours_stand_around_what_was_found(store: IndexStore) -> None:
    text = "\n\n".join(f"Line {number}." for number in range(1, 13))
    put(store, "demo", chunks_of("#b#", text))

    def around(ids: list[str], preceding: int = 1, following: int = 1) -> list[str]:
        found = [Passage(id, "", 10.0 - place) for place, id in enumerate(ids)]
        return [each.id.removeprefix("#b#") for each in store.neighbours("demo", found, preceding, following)]

    assert around(["#b##10"]) == ["#9", "#10", "#11"]
    assert around(["#b##12", "a.md#1", "#b##5"]) == ["#11", "#12", "a.md#1", "a.md#2", "#4", "#5", "#6"]
    assert around(["#b##6", "#b##2", "#b##4"]) == ["#1", "#2", "#3", "#4", "#5", "#6", "#7"]
    assert around(["#b##6", "#b##2"], 0, 2) == ["#6", "#7", "#8", "#2", "#3", "#4"]
    assert around(["#b##6", "#b##13", "#b##6"], 0, 0) == ["#6"]
    assert around(["#b##6"], 2**31 - 1, 2**31 - 1) == [f"#{number}" for number in range(1, 13)]
    for foreign in ("other.md#1", "no passage"):
        with pytest.raises(ValueError, match=f"passage '{foreign}' is of no document of this index"):
            around(["#b##6", foreign])
    assert around([]) == []
    scored = store.neighbours("demo", [Passage("#b##2", "", 2.0), Passage("#b##3", "", 1.0)], 1, 1)
    assert [(each.text, each.score) for each in scored] == [
        ("Line 1.", 2.0),
        ("Line 2.", 2.0),
        ("Line 3.", 1.0),
        ("Line 4.", 1.0),
    ]


def test_a_new_edition_of_a_document_replaces_all_of_the_old(store: IndexStore) -> None:
    put(store, "demo", chunks_of("b'; --.md", "Salt elsewhere."))
    report = put(store, "demo", chunks_of("a.md", "Only coal now."))
    assert (report.passages_added, report.passages_replaced) == (0, 3)
    assert find(store, "salt", mode="lexical") == ["b'; --.md#1"]
    assert find(store, "coal", mode="lexical") == ["a.md#1"]
    put(store, "demo", chunks_of("b'; --.md", "Sugar."))
    assert store.describe("demo").passages == 2


def test_equal_texts_are_ordered_by_id_whatever_the_order_of_ingest_and_the_batch(store: IndexStore) -> None:
    for id in ("z", "c", "b", "m"):
        put(store, "demo", chunks_of(id, "Coal and iron."))
    queries = ["coal", *(f"glass {n}" for n in range(70)), "coal"]
    for mode in ("lexical", "vector", "hybrid"):
        together = store.search("demo", queries, vectors_of(queries), [3] * len(queries), mode)
        assert [each.id for each in together[0]] == ["b#1", "c#1", "m#1"]
        assert together[-1] == together[0]
        assert together[5:6] == store.search("demo", queries[5:6], vectors_of(queries[5:6]), [3], mode)


def test_vector_search_is_exact(place: Place) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((300, 16)).astype(np.float32)
    queries = rng.standard_normal((5, 16)).astype(np.float32)
    chunks = [Chunk(f"d#{i:03}", "d", "text", "", i + 1) for i in range(300)]
    store = place.store()
    store.upsert("demo", chunks, vectors, "random")
    found = store.search("demo", ["q"] * 5, queries, [7] * 5, "vector")
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for query, passages in zip(queries, found, strict=True):
        cosines = unit @ (query / np.linalg.norm(query))
        best = np.argsort(-cosines)[:7]
        assert [each.id for each in passages] == [chunks[i].id for i in best]
        assert [each.score for each in passages] == pytest.approx(cosines[best], abs=1e-5)


@pytest.mark.parametrize("query", ["", "  \n", "?!", "\ud800"])
@pytest.mark.parametrize("mode", ["lexical", "vector", "hybrid"])
def test_queries_without_a_word_find_nothing(store: IndexStore, query: str, mode: Mode) -> None:
    assert find(store, query, mode=mode) == []


def test_texts_of_every_script_are_found(store: IndexStore) -> None:
    put(
        store,
        "demo",
        chunks_of("世界.md", "東京の会社は塩を売る。\n\nКомпания продаёт соль 🙂\n\nCafé Ångström"),
    )
    assert find(store, "塩", mode="lexical") == ["世界.md#1"]
    assert find(store, "продает", 1) == ["世界.md#2"]
    assert find(store, "🙂", 1) == ["世界.md#2"]
    assert find(store, "CAFE angstrom", 1) == ["世界.md#3"]


def test_dropping_and_making_again_starts_afresh(store: IndexStore) -> None:
    find(store, "salt")
    store.drop("demo")
    assert (store.names(), store.exists("demo")) == ([], False)
    put(store, "demo", chunks_of("b.md", "Coal."))
    assert find(store, "salt coal", mode="lexical") == ["b.md#1"]


def test_an_unknown_index_is_named_beside_those_that_exist(place: Place) -> None:
    store = place.store()
    with pytest.raises(UnknownIndexError, match="none; ingest documents"):
        store.describe("demo")
    with pytest.raises(UnknownIndexError, match="none; ingest documents"):
        store.drop("demo")
    put(store, "demo", chunks_of("a.md"))
    with pytest.raises(UnknownIndexError, match=r"index 'dem' does not exist \(existing indexes: 'demo'\)"):
        store.search("dem", ["q"], None, [1], "lexical")
    for use in (store.drop, store.tidy):
        with pytest.raises(UnknownIndexError, match=r"index 'other' does not exist .*'demo'"):
            use("other")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "é", "x" * 65, "a\n"])
def test_bad_names_are_refused(store: IndexStore, name: str) -> None:
    with pytest.raises(ValueError, match="is not valid: 1 to 64"):
        put(store, name, chunks_of("a.md"))
    with pytest.raises(ValueError, match="is not valid: 1 to 64"):
        store.exists(name)


def test_another_embedder_or_dimension_is_refused_with_the_remedy(store: IndexStore) -> None:
    chunks = chunks_of("b.md")
    told = r"holds vectors of 'weft-hash-v1'.* or (remove its folder|run .DELETE FROM) .*demo.*, and ingest"
    with pytest.raises(IndexMismatchError, match=told):
        store.upsert("demo", chunks, vectors_of([each.text for each in chunks]), "other")
    with pytest.raises(IndexMismatchError, match=r"\(dimension 4\)"):
        store.upsert("demo", chunks, np.ones((3, 4), np.float32), EMBEDDER.name)
    with pytest.raises(IndexMismatchError, match="embed queries by its embedder 'weft-hash-v1'"):
        store.search("demo", ["q"], np.ones((1, 4), np.float32), [1], "vector")
    assert store.describe("demo").passages == 3


def test_wrong_ingests_are_refused(store: IndexStore) -> None:
    chunks = chunks_of("b.md")
    ones = np.ones((3, EMBEDDER.dimension), np.float32)
    with pytest.raises(ValueError, match="no passages to ingest"):
        put(store, "demo", [])
    with pytest.raises(ValueError, match=r"two passages have the id 'b\.md#1'"):
        put(store, "demo", chunks + chunks[:1])
    with pytest.raises(ValueError, match=r"3 texts need vectors of shape \[3, dimension\], not \[2, "):
        store.upsert("demo", chunks, ones[:2], EMBEDDER.name)
    with pytest.raises(ValueError, match="finite"):
        store.upsert("demo", chunks, ones * np.nan, EMBEDDER.name)


def test_wrong_searches_are_refused(store: IndexStore) -> None:
    with pytest.raises(ValueError, match="k must be at least 1, not 0"):
        find(store, "q", 0)
    wrong: Any = "fuzzy"
    with pytest.raises(ValueError, match="mode must be"):
        find(store, "q", mode=wrong)
    with pytest.raises(ValueError, match="2 queries need as many k, not 1"):
        store.search("demo", ["a", "b"], None, [1], "lexical")
    with pytest.raises(ValueError, match="hybrid search needs the vectors"):
        store.search("demo", ["a"], None, [1], "hybrid")


def put_in_stages(store: IndexStore, name: str, chunks: list[Chunk], size: int) -> tuple[int, int]:
    """Store the chunks by so many at a time; the sums of the reports."""
    total = Counter(each.document for each in chunks)
    reports = []
    for start in range(0, len(chunks), size):
        part = chunks[start : start + size]
        here = Counter(each.document for each in part)
        partial = {document: total[document] for document in here if here[document] < total[document]}
        vectors = vectors_of([each.text for each in part])
        reports.append(store.upsert(name, part, vectors, EMBEDDER.name, partial))
    return sum(r.passages_added for r in reports), sum(r.passages_replaced for r in reports)


def documents(*sizes: int) -> list[Chunk]:
    return [
        each
        for number, size in enumerate(sizes)
        for each in chunks_of(f"d'{number}", "\n\n".join(f"Passage {n} of {number}." for n in range(size)))
    ]


def rows_of(store: IndexStore, name: str) -> set[tuple[str, str]]:
    return {
        (p.id, p.text) for p in store.search(name, ["Passage"], vectors_of(["Passage"]), [999], "vector")[0]
    }


def test_an_ingest_in_stages_stores_and_reports_what_one_does(store: IndexStore) -> None:
    for edition in (documents(600, 66), documents(600, 66), documents(200, 90), documents(0, 300)):
        report = put(store, "whole", edition)
        assert put_in_stages(store, "staged", edition, 128) == (
            report.passages_added,
            report.passages_replaced,
        )
        assert rows_of(store, "staged") == rows_of(store, "whole")
