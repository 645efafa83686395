"""What an index leaves on disk, and that tidying it up changes nothing else: on real files."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from weft.runtime.retrieval import lance
from weft.runtime.retrieval.bm25 import Bm25, TermIds
from weft.runtime.retrieval.documents import Chunk, Passage
from weft.runtime.retrieval.errors import UnwritableError
from weft.runtime.retrieval.filters import MetadataRows
from weft.runtime.retrieval.hashing import HashEmbedder
from weft.runtime.retrieval.index import IndexStore, IngestReport
from weft.runtime.retrieval.lance import LanceTables
from weft.runtime.retrieval.snapshot import Snapshot
from weft.runtime.retrieval.tables import Rows

from ...disk import files_of_at_most

pytestmark = pytest.mark.filterwarnings("ignore:optimize.cleanup_older_than=0.")  # the hardest for readers

EMBEDDER = HashEmbedder()

WRITER = """
import sys
from datetime import timedelta
from weft.runtime.retrieval import lance
from weft.runtime.retrieval.documents import Chunk
from weft.runtime.retrieval.hashing import HashEmbedder
from weft.runtime.retrieval.index import IndexStore
lance._KEEP_OLD_FILES = timedelta(0)
store, embedder = IndexStore(lance.LanceTables(sys.argv[1])), HashEmbedder()
for edition in range(int(sys.argv[3])):
    text = f"edition {edition}"
    chunk = Chunk(f"{sys.argv[2]}#1", sys.argv[2], text, "", 1)
    store.upsert("demo", [chunk], embedder.embed([text]), embedder.name)
    print(edition, flush=True)
    store.tidy("demo")
"""


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tidying removes old files however new they are."""
    monkeypatch.setattr(lance, "_KEEP_OLD_FILES", timedelta(0))


def chunk_of(document: str, text: str) -> Chunk:
    return Chunk(f"{document}#1", document, text, "", 1)


def put(store: IndexStore, document: str, text: str) -> IngestReport:
    return store.upsert("demo", [chunk_of(document, text)], EMBEDDER.embed([text]), EMBEDDER.name)


def found(store: IndexStore, query: str = "edition") -> list[Passage]:
    return store.search("demo", [query], EMBEDDER.embed([query]), [99], "hybrid")[0]


def files(folder: Path) -> tuple[int, int]:
    """The files of rows, and the versions."""
    index = folder / "demo.lance"
    return len(list(index.glob("data/*"))), len(list(index.glob("_versions/*.manifest")))


def writer(path: Path, document: str, editions: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-c", WRITER, str(path), document, str(editions)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("documents", [1, 4, 1000])
def test_files_stay_few_however_often_documents_are_added_or_replaced(tmp_path: Path, documents: int) -> None:
    store = IndexStore(LanceTables(tmp_path))
    most = 0
    for edition in range(100):
        if put(store, f"d{edition % documents}", f"edition {edition}").untidy:
            store.tidy("demo")
            assert files(tmp_path) == (1, 1)
        most = max(most, *files(tmp_path))
    assert most <= 33
    assert store.describe("demo").passages == min(documents, 100)


def test_tidying_keeps_results_and_the_version_that_they_are_kept_for(tmp_path: Path) -> None:
    store, other = IndexStore(LanceTables(tmp_path)), IndexStore(LanceTables(tmp_path))
    for number in range(8):
        put(store, f"d{number % 5}", f"edition {number}")
    before, key = found(store), store.newest("demo").key
    assert found(other) == before
    store.tidy("demo")
    assert files(tmp_path) == (1, 1)
    assert (found(store), store.newest("demo").key) == (before, key)
    assert found(other) == found(IndexStore(LanceTables(tmp_path))) == before
    put(store, "d9", "edition 9")
    assert store.newest("demo").key != key
    assert len(found(store)) == 6


def test_what_is_tidied_away_under_a_search_is_looked_up_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = IndexStore(LanceTables(tmp_path)), IndexStore(LanceTables(tmp_path))
    put(store, "a", "edition 1")
    loaded: list[int] = []
    rows = lance.LanceTable.rows

    def slow(table: lance.LanceTable) -> Rows:
        loaded.append(table.version)
        if len(loaded) == 1:
            put(other, "a", "edition 2")
            other.tidy("demo")
        return rows(table)

    monkeypatch.setattr(lance.LanceTable, "rows", slow)
    assert [each.text for each in found(store)] == ["edition 2"]
    assert len(loaded) == 2


def test_a_full_disk_leaves_the_index_as_it_was(tmp_path: Path) -> None:
    store = IndexStore(LanceTables(tmp_path))
    for number in range(4):
        put(store, f"d{number}", f"edition {number}")
    before = found(store)
    with files_of_at_most(1000), pytest.raises(UnwritableError, match="has room"):
        store.tidy("demo")
    assert found(IndexStore(LanceTables(tmp_path))) == before
    store.tidy("demo")
    assert found(IndexStore(LanceTables(tmp_path))) == before


def test_killing_who_tidies_leaves_an_index_that_is_read_written_and_tidied(tmp_path: Path) -> None:
    for round, editions in enumerate((1, 2, 3, 5)):
        with writer(tmp_path, f"d{round}", 10_000) as process:
            assert process.stdout is not None
            for _ in range(editions):
                process.stdout.readline()
            process.kill()
        store = IndexStore(LanceTables(tmp_path))
        assert {each.id for each in found(store)} == {f"d{number}#1" for number in range(round + 1)}
    put(store, "d0", "coal")
    store.tidy("demo")
    assert [each.text for each in found(IndexStore(LanceTables(tmp_path)), "coal")][:1] == ["coal"]


def test_searches_find_all_documents_while_two_processes_write_and_tidy(tmp_path: Path) -> None:
    store = IndexStore(LanceTables(tmp_path))
    put(store, "own", "edition 0")
    with writer(tmp_path, "first", 15) as first, writer(tmp_path, "second", 15) as second:
        while first.poll() is None or second.poll() is None:
            assert "own#1" in [each.id for each in found(store)]
            assert store.describe("demo").passages >= 1
            assert store.changed("demo", [chunk_of("own", "edition 0")], EMBEDDER.name) == []
    assert (first.returncode, second.returncode) == (0, 0)
    assert sorted(each.text for each in found(store)) == ["edition 0", "edition 14", "edition 14"]


STEPS = st.lists(
    st.one_of(
        st.just("tidy"),
        st.just("search"),
        st.tuples(st.sampled_from("abc"), st.integers(0, 9)),
    ),
    max_size=12,
)


@given(STEPS)
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # each example has a folder of its own
)
def test_whatever_the_order_a_search_finds_the_latest_editions(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Any]
) -> None:
    folder = tmp_path_factory.mktemp("steps")
    store, other = IndexStore(LanceTables(folder)), IndexStore(LanceTables(folder))
    put(store, "a", "edition 0")
    expected = {"a#1": "edition 0"}
    for step in [*steps, "search"]:
        match step:
            case "tidy":
                store.tidy("demo")
            case "search":
                for reader in (store, other):
                    assert {each.id: each.text for each in found(reader)} == expected
            case (document, edition):
                put(store, document, f"edition {edition}")
                expected[f"{document}#1"] = f"edition {edition}"


def snapshot(texts: list[str], known: TermIds | None) -> Snapshot:
    terms = TermIds.of(texts, known)
    vectors = np.zeros((len(texts), 1), np.float32)
    return Snapshot(("id", 1), [], vectors, terms, Bm25.build(texts, terms), {}, MetadataRows({}))


def test_terms_of_texts_that_are_gone_are_forgotten_before_they_outnumber_the_others() -> None:
    first = snapshot(["one two"], None)
    assert first.lasting_terms is first.terms
    second = snapshot(["three four"], first.lasting_terms)
    assert (len(second.terms.vocabulary), second.bm25.terms, second.lasting_terms) == (4, 2, second.terms)
    third = snapshot(["five six"], second.lasting_terms)
    assert third.lasting_terms is None
