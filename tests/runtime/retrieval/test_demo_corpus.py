"""The demo corpus end to end: folder, chunks, vectors, index, search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from weft.graph.ops.user import Chunking
from weft.runtime.retrieval.chunking import chunk
from weft.runtime.retrieval.embedder import load_embedder
from weft.runtime.retrieval.folders import read_folder
from weft.runtime.retrieval.index import IndexStore
from weft.runtime.retrieval.lance import LanceTables
from weft.runtime.retrieval.snapshot import Mode

CORPUS = Path(__file__).parents[3] / "apps" / "reference_model" / "corpus"
EMBEDDER = load_embedder(None)


def lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (CORPUS / name).read_text(encoding="utf-8").splitlines()]


def chunk_id(gold: str) -> str:
    """`companies-03` as a chunk id: `companies.md#3`."""
    file, number = gold.rsplit("-", 1)
    return f"{file}.md#{int(number)}"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> IndexStore:
    made = IndexStore(LanceTables(tmp_path_factory.mktemp("demo")))
    chunks = [each for document in read_folder(CORPUS) for each in chunk(document, Chunking())]
    made.upsert("demo", chunks, EMBEDDER.embed([each.text for each in chunks]), EMBEDDER.name)
    return made


def test_one_passage_is_one_paragraph() -> None:
    chunks = {each.id: each for document in read_folder(CORPUS) for each in chunk(document, Chunking())}
    assert {id: each.text for id, each in chunks.items()} == {
        chunk_id(row["id"]): row["text"] for row in lines("passages.jsonl")
    }
    assert chunks["companies.md#3"].metadata == {"heading": "Companies"}


def recall(store: IndexStore, questions: list[dict[str, Any]], mode: Mode, k: int) -> float:
    texts = [row["question"] for row in questions]
    found = store.search("demo", texts, EMBEDDER.embed(texts), [k] * len(texts), mode)
    shares = []
    for row, passages in zip(questions, found, strict=True):
        gold = {chunk_id(id) for id in row["passages"]}
        shares.append(len(gold & {each.id for each in passages}) / len(gold))
    return sum(shares) / len(shares)


@pytest.mark.parametrize("k", [3, 6, 8])
def test_hybrid_search_is_at_least_as_good_as_lexical(store: IndexStore, k: int) -> None:
    single = [row for row in lines("questions.jsonl") if row["type"] == "single"]
    assert recall(store, single, "hybrid", k) >= recall(store, single, "lexical", k) >= 0.9
