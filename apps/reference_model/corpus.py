"""The demo corpus, its questions, and the index of it that the bundled apps search."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from weft import Client, Document, Static, ingest, program
from weft.runtime.retrieval.folders import read_folder

from .world import Question

__all__ = ["CORPUS", "HANDBOOK", "documents", "fill", "has_index", "prepare", "questions"]

CORPUS: Final = Path(__file__).parent / "corpus"
HANDBOOK: Final = "handbook"
"""The index of the demo corpus."""


@program
def fill(texts: list[Document], index: Static[str] = HANDBOOK) -> dict[str, Any]:
    """Put documents into an index; how many passages were added and replaced."""
    return ingest(index, texts)


def documents() -> list[Document]:
    """The corpus: one document for each topic."""
    return [Document(found.id, found.text, found.source) for found in read_folder(CORPUS)]


def questions() -> list[Question]:
    """The questions, in the order of the file."""
    lines = (CORPUS / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    return [_question(json.loads(line)) for line in lines]


def has_index(client: Client, index: str) -> bool:
    """Whether the server has an index of that name."""
    engines = (engine for worker in client.describe().workers for engine in worker.engines)
    return any(found.name == index for engine in engines for found in engine.indexes)


def prepare(client: Client, done: Callable[[int], None] = lambda passages: None) -> None:
    """Index the corpus unless the server has it; `done` is told how many passages each document gave."""
    if has_index(client, HANDBOOK):
        return
    for document in documents():
        report = fill.using(client)([document])
        done(report["passages_added"])


def _question(fields: dict[str, Any]) -> Question:
    return Question(
        fields["id"],
        fields["type"],
        fields["question"],
        fields["answer"],
        tuple(_passage_id(name) for name in fields["passages"]),
    )


def _passage_id(name: str) -> str:
    """The id in the index of what the corpus calls companies-03: the third paragraph of companies.md."""
    document, number = name.rsplit("-", 1)
    return f"{document}.md#{int(number)}"
