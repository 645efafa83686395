"""KV that moves between the workers of a real server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from weft import Run, gen, program
from weft.apps.instructions import ANSWER
from weft.apps.reference_model.world import Corpus
from weft.runtime.config import REFERENCE_MODEL

from .conftest import serving

WORLD = Corpus(1000)
PASSAGES = "\n".join(f"[{n}] {placed.passage.text}" for n, placed in enumerate(WORLD.passages[:20], 1))
QUESTIONS = [question.text for question in WORLD.questions[:4]]


@program
def answer(question: str) -> str:
    """Answer a question from numbered passages."""
    return gen(f"Passages:\n{PASSAGES}\n\nQuestion: {question}", system=ANSWER, max_tokens=24)


@pytest.fixture
def two_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    model = {"name": "reference", "path": str(REFERENCE_MODEL), "workers": 2, "kv_tokens": 8192}
    monkeypatch.setenv("WEFT_MODELS", json.dumps([model]))
    monkeypatch.setenv("WEFT_SCHEDULER__PLACEMENT", "round_robin")


def answers(folder: Path) -> tuple[list[str], list[int]]:
    """The answers to the questions, asked one after the other, and what each fetched."""
    with serving(folder) as server:
        runs: list[Run[str]] = []
        for question in QUESTIONS:
            runs.append(answer.using(server.client).submit(question))
            runs[-1].result()
        tasks = [list(run.explain().tasks.values()) for run in runs]
        return [run.result() for run in runs], [sum(task.fetched_tokens for task in some) for some in tasks]


def test_a_worker_fetches_what_another_has_read_and_answers_alike(
    two_workers: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, fetched = answers(tmp_path / "on")
    assert fetched[0] == 0
    assert fetched[1] > 1000
    assert fetched[2:] == [0, 0], "both have it"
    monkeypatch.setenv("WEFT_SCHEDULER__TRANSFER", "never")
    assert answers(tmp_path / "off") == (texts, [0, 0, 0, 0])
    assert all(texts)
