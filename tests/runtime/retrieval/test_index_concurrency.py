"""Several threads and processes on one place of indexes: real ones, on real files and a real server."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from weft.runtime.retrieval.documents import Chunk
from weft.runtime.retrieval.embedder import HashEmbedder
from weft.runtime.retrieval.index import IndexStore

from ...places import Place

EMBEDDER = HashEmbedder()
PARTS = 4  # chunks of a document

WRITER = """
import sys
from pathlib import Path
from weft.runtime.retrieval.documents import Chunk
from weft.runtime.retrieval.hashing import HashEmbedder
from weft.runtime.retrieval.index import IndexStore
from weft.runtime.retrieval.place import index_tables
url, data, name, editions = sys.argv[1:]
store, embedder = IndexStore(index_tables(url, Path(data))), HashEmbedder()
for edition in range(int(editions)):
    for document in ("shared", name):
        text = f"{name} edition{edition}"
        chunks = [Chunk(f"{document}#{i}", document, text, "", i) for i in range(1, 5)]
        store.upsert("demo", chunks, embedder.embed([text] * 4), embedder.name)
    print(edition, flush=True)
"""


def editions_of(store: IndexStore, document: str) -> set[str]:
    """The texts of the chunks of `document`, of which there must be `PARTS`."""
    found = store.search("demo", ["edition0 edition1 edition2 alpha beta"], None, [999], "lexical")[0]
    texts = [each.text for each in found if each.id.startswith(f"{document}#")]
    assert len(texts) == PARTS
    return set(texts)


def put(store: IndexStore, document: str, text: str) -> None:
    chunks = [Chunk(f"{document}#{i}", document, text, "", i) for i in range(1, PARTS + 1)]
    store.upsert("demo", chunks, EMBEDDER.embed([text] * PARTS), EMBEDDER.name)


def test_two_processes_may_ingest_at_once_and_a_third_sees_it(place: Place) -> None:
    store = place.store()
    put(store, "own", "alpha")
    assert editions_of(store, "own") == {"alpha"}
    with place.process(WRITER, "alpha", "3") as first, place.process(WRITER, "beta", "3") as second:
        assert (first.wait(60), second.wait(60)) == (0, 0)
    assert editions_of(store, "alpha") == {"alpha edition2"}
    assert editions_of(store, "beta") == {"beta edition2"}
    assert len(editions_of(store, "shared")) == 1
    assert store.describe("demo").passages == 4 * PARTS


def test_killing_a_writer_leaves_whole_documents_and_a_writable_index(place: Place) -> None:
    with place.process(WRITER, "alpha", "10000") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
    store = place.store()
    found = store.search("demo", ["alpha"], None, [999], "lexical")[0]
    for document in ("alpha", "shared"):
        texts = [each.text for each in found if each.id.startswith(f"{document}#")]
        assert len(texts) == PARTS
        assert len(set(texts)) == 1
    put(store, "alpha", "beta")
    assert editions_of(store, "alpha") == {"beta"}


def test_threads_search_whole_editions_while_others_ingest(place: Place) -> None:
    store = place.store()
    for document in ("x", "y"):
        put(store, document, "alpha edition0")

    def ingest(document: str) -> None:
        for edition in range(1, 9):
            put(store, document, f"alpha edition{edition}")

    def look(_: int) -> int:
        return max(len(editions_of(store, document)) for document in ("x", "y"))

    with ThreadPoolExecutor(6) as pool:
        ingests = [pool.submit(ingest, document) for document in ("x", "y")]
        assert set(pool.map(look, range(40))) == {1}
        for each in ingests:
            each.result()
    assert editions_of(store, "x") == editions_of(store, "y") == {"alpha edition8"}


def test_searches_find_whole_documents_while_two_processes_ingest(place: Place) -> None:
    store = place.store()
    put(store, "own", "alpha")
    with place.process(WRITER, "alpha", "10") as first, place.process(WRITER, "beta", "10") as second:
        while first.poll() is None or second.poll() is None:
            found = store.search("demo", ["alpha beta"], None, [999], "lexical")[0]
            editions = {(each.id.partition("#")[0], each.text) for each in found}
            assert ("own", "alpha") in editions
            assert len(found) == PARTS * len(editions) == PARTS * len({document for document, _ in editions})
            chunks = [Chunk(f"own#{i}", "own", "alpha", "", i) for i in range(1, PARTS + 1)]
            assert store.changed("demo", chunks, EMBEDDER.name) == []
    assert (first.returncode, second.returncode) == (0, 0)


def test_an_index_made_anew_elsewhere_is_not_taken_for_the_one_before(place: Place) -> None:
    store, other = place.store(), place.store()
    for document in ("old", "older"):
        put(store, document, "alpha")
    assert editions_of(store, "old") == editions_of(store, "older") == {"alpha"}
    other.drop("demo")
    for document in ("new", "newer"):
        put(other, document, "alpha")
    store.tidy("demo")
    assert editions_of(store, "new") == editions_of(store, "newer") == {"alpha"}
    assert store.describe("demo").passages == 2 * PARTS
