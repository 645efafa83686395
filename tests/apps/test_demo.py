from __future__ import annotations

from typing import Any

import pytest

from weft import Passage
from weft.apps.citations import Cited
from weft.apps.demo.demo import _judge
from weft.apps.demo.timings import summary
from weft.apps.reference_model.corpus import documents, questions
from weft.apps.reference_model.world import Question

PASSAGES = [Passage("a.md#1", "A."), Passage("b.md#2", "B.")]
ASKED = Question("q1", "single", "Who?", "Mira", ("b.md#2",))
ABSENT = Question("q2", "absent", "Who?", "not found", ())


@pytest.mark.parametrize(
    ("question", "answer", "right"),
    [
        (ASKED, "Mira [2]", True),
        (ASKED, "Mira [1]", False),  # another passage
        (ASKED, "Mira [1][2]", False),  # one too many
        (ASKED, "Mira [3]", False),  # there is no third
        (ASKED, "Mira", False),  # no citation
        (ASKED, "Moro [2]", False),
        (ABSENT, "not found", True),
        (ABSENT, "not found [1]", False),
        (ABSENT, "Mira [1]", False),
    ],
)
def test_an_answer_is_right_if_its_text_and_its_citations_are(
    question: Question, answer: str, right: bool
) -> None:
    assert _judge(Cited(answer, PASSAGES), question).right is right


def test_every_gold_passage_is_a_paragraph_of_the_corpus() -> None:
    texts = {document.id: document.text for document in documents()}
    for question in questions():
        for passage in question.passages:
            name, number = passage.split("#")
            paragraphs = [p for p in texts[name].split("\n\n") if not p.startswith("#")]
            assert 0 < int(number) <= len(paragraphs)


def span(name: str, start: float, seconds: float, pid: int = 2) -> dict[str, Any]:
    return {"name": name, "cat": "primitive", "ph": "X", "ts": start * 1e6, "dur": seconds * 1e6, "pid": pid}


def test_a_summary_groups_primitives_and_leaves_out_the_orchestrators_own() -> None:
    tracks = [
        {"name": "process_name", "ph": "M", "pid": pid, "args": {"name": name}}
        for pid, name in ((1, "orchestrator"), (2, "worker-1"))
    ]
    spans = [
        span("%4 decode 'answer' (app.py:7)", 2.0, 0.5),
        span("%1 score (app.py:3)", 0.0, 0.010),
        span("%2 score (app.py:3)", 0.1, 0.030),
        span("%3 format", 1.0, 0.1, pid=1),
    ]
    assert summary({"traceEvents": [*tracks, *spans]}) == "score 2 × 20 ms · decode 'answer' 500 ms"
