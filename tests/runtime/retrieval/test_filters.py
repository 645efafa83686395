from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from weft.graph.ops.user import Chunking
from weft.runtime.retrieval.chunking import chunk
from weft.runtime.retrieval.documents import Document
from weft.runtime.retrieval.embedder import HashEmbedder
from weft.runtime.retrieval.filters import MetadataRows, where_of
from weft.runtime.retrieval.index import IndexStore
from weft.runtime.retrieval.lance import LanceTables
from weft.runtime.retrieval.snapshot import Mode

EMBEDDER = HashEmbedder()
FIELDS: list[dict[str, Any]] = [
    {"team": "hr", "year": 2025, "open": True},
    {"team": "it", "year": 2026, "open": False},
    {"team": "hr", "year": 1, "open": None},
    {},
]


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ({"team": "hr"}, [0, 2]),
        ({"team": ["it", "hr"]}, [0, 1, 2]),
        ({"team": "hr", "year": 2025}, [0]),
        ({"team": "hr", "year": [2025.0, 2026]}, [0]),
        ({"open": True}, [0]),
        ({"year": True}, []),  # is not 1
        ({"open": None}, [2]),  # is not a field that is missing
        ({"team": []}, []),
        ({"team": "HR"}, []),
        ({"nowhere": "hr"}, []),
    ],
)
def test_conditions(where: object, rows: list[int]) -> None:
    assert MetadataRows.build(FIELDS).matching(where_of(where)).tolist() == rows


@pytest.mark.parametrize(
    ("where", "problem"),
    [
        ("hr", "where must be an object of metadata fields, not a str"),
        ({"team": {"not": "hr"}}, r"where\['team'\] must be a string, .*, not a dict"),
        ({"team": [["hr"]]}, r"where\['team'\] must be a string, .*, not a list"),
    ],
)
def test_what_is_no_condition(where: object, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        where_of(where)


@pytest.mark.parametrize("mode", ["lexical", "vector", "hybrid"])
def test_a_search_finds_the_best_of_what_meets_the_condition(tmp_path: Path, mode: Mode) -> None:
    store = IndexStore(LanceTables(tmp_path))
    documents = [
        Document(f"{n:02}", f"Salt is sold {'often ' * (n % 5)}in Fiba.", metadata={"half": n % 2, "n": n})
        for n in range(40)
    ]
    chunks = [part for document in documents for part in chunk(document, Chunking())]
    store.upsert("all", chunks, EMBEDDER.embed([each.text for each in chunks]), EMBEDDER.name)
    odd = [each for each in chunks if each.metadata["half"]]
    store.upsert("odd", odd, EMBEDDER.embed([each.text for each in odd]), EMBEDDER.name)
    queries = ["Who sells salt often?", "Fiba"]
    vectors = EMBEDDER.embed(queries)

    def found(index: str, where: object) -> list[list[str]]:
        passages = store.search(index, queries, vectors, [7, 99], mode, where_of(where))
        return [[each.id for each in ranking] for ranking in passages]

    assert found("all", {"half": 1}) == found("odd", {})  # where all texts weigh alike in both
    assert found("all", {"n": [3, 5], "half": 1})[1] == found("odd", {"n": [5, 3]})[1]
    assert [len(ranking) for ranking in found("all", {"n": 50})] == [0, 0]
