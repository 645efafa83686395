"""Indexes in a folder: what only its files can suffer."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from weft.graph.ops.user import Chunking
from weft.runtime.retrieval.chunking import chunk
from weft.runtime.retrieval.documents import Document
from weft.runtime.retrieval.embedder import HashEmbedder
from weft.runtime.retrieval.errors import CorruptIndexError, UnknownIndexError, UnwritableError
from weft.runtime.retrieval.index import IndexStore, IngestReport
from weft.runtime.retrieval.lance import LanceTables

from ...disk import files_of_at_most

EMBEDDER = HashEmbedder()


def put(store: IndexStore, name: str, text: str = "Coal.\n\nBilel sells salt.") -> IngestReport:
    chunks = chunk(Document("a.md", text), Chunking())
    return store.upsert(name, chunks, EMBEDDER.embed([each.text for each in chunks]), EMBEDDER.name)


def find(store: IndexStore, query: str) -> list[str]:
    return [each.id for each in store.search("demo", [query], None, [9], "lexical")[0]]


@pytest.fixture
def store(tmp_path: Path) -> IndexStore:
    made = IndexStore(LanceTables(tmp_path / "indexes"))
    put(made, "demo")
    return made


def test_looking_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(UnknownIndexError):
        IndexStore(LanceTables(tmp_path / "nowhere")).describe("demo")
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_that_cannot_be_written_is_named_with_the_setting(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("no folder")
    with pytest.raises(UnwritableError, match=r"'.*taken/indexes': Not a directory; set `data`"):
        put(IndexStore(LanceTables(tmp_path / "taken" / "indexes")), "demo")


def test_an_interrupted_first_ingest_leaves_no_index(store: IndexStore, tmp_path: Path) -> None:
    (tmp_path / "indexes" / "half.lance" / "data").mkdir(parents=True)
    assert store.names() == ["demo"]
    assert put(store, "half").passages_added == 2


def test_damaged_files_are_reported_with_the_remedy(store: IndexStore, tmp_path: Path) -> None:
    for file in (tmp_path / "indexes" / "demo.lance" / "data").iterdir():
        file.write_bytes(b"garbage")
    told = r"index 'demo' cannot be read \([^/]*\); remove its folder indexes/demo\.lance in the data folder"
    chunks = chunk(Document("a.md", "Salt."), Chunking())
    for use in (lambda: find(store, "salt"), lambda: store.changed("demo", chunks, EMBEDDER.name)):
        with pytest.raises(CorruptIndexError, match=told):
            use()
    shutil.rmtree(tmp_path / "indexes" / "demo.lance")
    put(store, "demo")
    assert find(store, "sells") == ["a.md#2"]


@pytest.mark.parametrize("name", ["demo", "new"])
def test_a_full_disk_is_reported_with_the_remedy_and_spoils_nothing(store: IndexStore, name: str) -> None:
    told = rf"index '{name}' cannot be written \([^/]*too large[^/]*\); .*has room"
    with files_of_at_most(1000), pytest.raises(UnwritableError, match=told):
        put(store, name, "Salt.\n\nIron.")
    assert store.names() == ["demo"]
    assert find(store, "sells") == ["a.md#2"]
    assert put(store, name, "Salt.\n\nIron.").version == (2 if name == "demo" else 1)
