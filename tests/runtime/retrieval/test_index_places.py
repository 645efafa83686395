"""A folder and a database give the same: the same reports, answers and scores to the last bit."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import count
from typing import Any, get_args

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from weft.graph.ops.user import Chunking
from weft.runtime.retrieval.chunking import chunk
from weft.runtime.retrieval.documents import Chunk, Document
from weft.runtime.retrieval.folders import read_folder
from weft.runtime.retrieval.hashing import HashEmbedder
from weft.runtime.retrieval.index import IndexStore, IngestReport
from weft.runtime.retrieval.snapshot import Mode

from ...places import Place
from .test_demo_corpus import CORPUS, lines

EMBEDDER = HashEmbedder()
MODES: tuple[Mode, ...] = get_args(Mode)
NAMES = (f"index-{number}" for number in count())


def put(
    store: IndexStore, name: str, chunks: list[Chunk], partial: dict[str, int] | None = None
) -> IngestReport:
    vectors = EMBEDDER.embed([each.text for each in chunks])
    return replace(store.upsert(name, chunks, vectors, EMBEDDER.name, partial), version=0)


def answers(store: IndexStore, name: str, queries: list[str]) -> list[Any]:
    """All that an index says when it is asked."""
    vectors = EMBEDDER.embed(queries)
    found = [store.search(name, queries, vectors, [7] * len(queries), mode) for mode in MODES]
    around = [store.neighbours(name, passages, 1, 2) for passages in found[-1]]
    return [found, around, replace(store.describe(name), version=0)]


def test_the_demo_corpus_gives_the_same_answers(folder: Place, database: Place) -> None:
    chunks = [each for document in read_folder(CORPUS) for each in chunk(document, Chunking())]
    questions = [row["question"] for row in lines("questions.jsonl")]
    here, there = folder.store(), database.store()
    assert put(here, "demo", chunks) == put(there, "demo", chunks)
    assert there.changed("demo", chunks, EMBEDDER.name) == []
    assert answers(here, "demo", questions) == answers(there, "demo", questions)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
WORDS = st.lists(
    st.sampled_from(["salt", "coal", "glass", "塩", "Ångström", "🙂", "\0", "\n\n"]), max_size=12
)
METADATA = st.dictionaries(
    TEXTS,
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
)
DOCUMENTS = st.builds(
    Document,
    st.sampled_from(["a", "b#1", "c'; --", "塩\0", "long " * 999]),
    st.one_of(WORDS.map(" ".join), TEXTS),
    TEXTS,
    METADATA,
)
EDITIONS = st.lists(DOCUMENTS, min_size=1, max_size=3, unique_by=lambda document: document.id)


@given(st.lists(EDITIONS, min_size=1, max_size=4), st.lists(TEXTS, max_size=3), st.integers(1, 3))
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],  # an index an example
)
def test_documents_of_any_kind_give_the_same_answers(
    folder: Place, database: Place, editions: list[list[Document]], queries: list[str], stage: int
) -> None:
    name = next(NAMES)
    here, there = folder.store(), database.store()
    asked = [*queries, "salt", "glass 塩"]
    for documents in editions:
        chunks = [each for document in documents for each in chunk(document, Chunking(max_chars=10))]
        if not chunks:
            continue
        changed = here.changed(name, chunks, EMBEDDER.name)
        assert there.changed(name, chunks, EMBEDDER.name) == changed
        total = Counter(each.document for each in chunks)
        for start in range(0, len(chunks), stage):
            part = chunks[start : start + stage]
            partial = {document: total[document] for document in {each.document for each in part}}
            assert put(here, name, part, partial) == put(there, name, part, partial)
        assert put(here, name, chunks) == put(there, name, chunks)
        assert answers(here, name, asked) == answers(there, name, asked)
