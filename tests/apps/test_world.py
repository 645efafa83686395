from __future__ import annotations

import pytest

from weft.apps.reference_model import corpus
from weft.apps.reference_model.world import Corpus


def test_the_demo_corpus_is_what_its_seed_makes() -> None:
    made = Corpus(20)
    assert sorted(made.documents(), key=lambda document: document.id) == corpus.documents()
    assert made.questions == corpus.questions()


@pytest.mark.parametrize("seed", range(5))
def test_every_seed_makes_another_corpus_of_which_the_answers_are_in_the_gold_passages(seed: int) -> None:
    made = Corpus(seed)
    texts = {placed.id: placed.passage.text for placed in made.passages}
    assert len(texts) == len(made.questions) == 60
    assert made.documents() != Corpus(seed + 1).documents()
    for question in made.questions:
        gold = " ".join(texts[id] for id in question.passages)
        match question.kind:
            case "single" | "two_hop":
                assert question.answer.lower() in gold.lower()
            case "absent":
                assert question.passages == ()
            case "arithmetic":
                assert question.answer.isdigit()


def test_passages_that_continue_another_do_not_name_their_subject() -> None:
    made = Corpus(3)
    for before, placed in zip(made.passages, made.passages[1:], strict=False):
        named = placed.passage.subject.name.lower() in placed.passage.text.lower()
        assert named is not placed.passage.continues
        if placed.passage.continues:
            assert before.passage.subject is placed.passage.subject
            assert made.sources(placed.passage.facts[0]) == (before.id, placed.id)


def test_a_larger_corpus_has_more_of_everything() -> None:
    made = Corpus(4, size=3)
    assert len(made.passages) == len(made.questions) == 180
    assert len(made.subjects) == 3 * 53
    assert [placed.id for placed in made.about(made.subjects[0])] == ["companies.md#1"]
