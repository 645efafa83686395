from __future__ import annotations

import json
import re
from random import Random
from typing import Final

from hypothesis import given, settings
from hypothesis import strategies as st

from weft.apps.reference_model.training import agent, passage_tasks, question_tasks
from weft.apps.reference_model.training.samples import NOT_FOUND, Branch

SEEDS = st.integers(0, 10**6)
ERROR: Final = re.compile(r"^(error|the call was)", re.IGNORECASE)
NAMES: Final = re.compile(r"\b[A-Z][a-z]+\b")


def observed(branch: Branch) -> list[str]:
    return [user.removeprefix("Observation: ") for user, _ in branch.turns[1:]]


def agents(seed: int) -> list[Branch]:
    return agent.actions(Random(seed), 20, 1.0, multi_turn=1.0, ranked=0.5).branches


def test_agents_meet_calls_that_fail() -> None:
    failed = [
        json.loads(branch.turns[index][1])["tool"]
        for seed in range(20)
        for branch in agents(seed)
        for index, seen in enumerate(observed(branch))
        if ERROR.match(seen)
    ]
    assert {"search", "calculator"} == set(failed)


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_an_agent_does_not_give_an_error_for_an_answer(seed: int) -> None:
    for branch in agents(seed):
        for (_, action), seen in zip(branch.turns[1:], observed(branch), strict=True):
            after = json.loads(action)
            if ERROR.match(seen):
                assert after["tool"] == "search" or after == {"tool": "finish", "input": NOT_FOUND}
            assert not ERROR.match(after["input"])


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_an_agent_never_repeats_a_search(seed: int) -> None:
    for branch in agents(seed):
        actions = [json.loads(action) for _, action in branch.turns]
        searches = [action["input"] for action in actions if action["tool"] == "search"]
        assert len(set(searches)) == len(searches)


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_a_follow_up_made_standalone_has_its_names_from_the_history(seed: int) -> None:
    for branch in question_tasks.standalone(Random(seed), 6, 1.0).branches:
        (user, question), *_ = branch.turns
        history, _, follow_up = user.partition("\n\nFollow-up question: ")
        assert question.endswith("?")
        assert question[0].isupper()
        assert not question.startswith(("And ", "So ", "Ok"))
        named = set(NAMES.findall(question)[1:])  # the first word is a question's
        assert named <= set(NAMES.findall(f"{history} {follow_up}"))


def test_follow_ups_begin_with_and_now_and_then() -> None:
    follow_ups = [
        branch.turns[0][0].partition("Follow-up question: ")[2]
        for seed in range(50)
        for branch in question_tasks.standalone(Random(seed), 6).branches
    ]
    share = sum(text.startswith("And ") for text in follow_ups) / len(follow_ups)
    assert 0.05 < share < 0.4


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_a_refined_answer_is_the_one_before_or_stands_in_the_passage(seed: int) -> None:
    for branch in passage_tasks.refinements(Random(seed), 6, 1.0, surrounded=1.0).branches:
        (user, answer), *_ = branch.turns
        asked, _, passage = user.partition("\nNew passage: ")
        before = asked.partition("\nPrevious answer: ")[2]
        if branch.note == "keep":
            assert answer == before
        else:
            assert answer != before
            assert answer in passage
