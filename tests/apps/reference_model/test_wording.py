from __future__ import annotations

import json
import re
from copy import deepcopy
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.apps.reference_model.training import agent, answers, question_tasks, records
from weft.apps.reference_model.training.encoder import Encoder
from weft.apps.reference_model.training.evaluate import GROUPS, cases, perturbed_cases
from weft.apps.reference_model.training.network import Network, Shape, dense_mask
from weft.apps.reference_model.training.perturbations import PERTURBATIONS, perturbed
from weft.apps.reference_model.training.rows import APART, BRANCHES, row_of
from weft.apps.reference_model.training.samples import Branch, Sample
from weft.apps.reference_model.training.wording import vary


def drawn(rng: Random) -> Sample:
    makers = (
        lambda: answers.answers(rng, rng.randint(1, 8), 3, kinds={"single": 2, "absent": 1}),
        lambda: records.overwrites(rng, rng.randint(2, 8), 3),
        lambda: question_tasks.combinations(rng, 3),
        lambda: agent.actions(rng, 3, ranked=0.5),
    )
    return rng.choice(makers)()


def words(text: str) -> list[str]:
    return re.findall(r"[A-Z][a-z]{3,}|\d+", text)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_other_ways_to_put_a_prompt_leave_what_is_said_and_the_replies(seed: int) -> None:
    rng = Random(seed)
    sample = drawn(rng)
    before = deepcopy(sample)
    vary(rng, sample)
    assert sample.read in sample.shared
    assert bool(sample.read) == bool(before.read)
    for old, new in zip(before.branches, sample.branches, strict=True):
        assert [reply for _, reply in old.turns] == [reply for _, reply in new.turns]
        for (was, reply), (now, _) in zip(old.turns, new.turns, strict=True):
            said = set(words(reply)) & set(words(before.shared + was))
            assert said <= set(words(sample.shared + now)), (was, now)


def test_most_prompts_are_put_otherwise() -> None:
    changed = 0
    for seed in range(200):
        rng = Random(seed)
        sample = drawn(rng)
        before = deepcopy(sample)
        vary(rng, sample)
        changed += sample != before
    assert changed > 140


@pytest.mark.parametrize("name", [name for name in PERTURBATIONS if name != "none"])
def test_a_perturbation_changes_the_prompt_and_not_the_reply(name: str) -> None:
    sample = Sample(
        "Combine the partial answers into one final answer. Ignore partial answers that say not found.",
        "Passages:\n[1] Keltor was founded by Mira. It is old.\n[2] Velmora is a town\n\n",
        [Branch("combine", [("Question: Who?\nPartial answers:\n- Mira [1]", "Mira [1]")])],
    )
    other = perturbed(sample, name, Random(1))
    assert other is not None
    assert other.conversation(other.branches[0])[0] != sample.conversation(sample.branches[0])[0]
    assert other.branches[0].turns[0][1] == "Mira [1]"


def test_cases_of_a_perturbation_are_the_same_each_time() -> None:
    groups = [GROUPS[name] for name in ("combine", "agent, chat turns", "answer, 1-12 passages")]
    once, again = (
        [case.sample.conversation(case.branch) for case in perturbed_cases("three of these", groups, 5)]
        for _ in range(2)
    )
    assert once == again
    assert len(once) == 5


def test_no_cases_of_what_changes_nothing() -> None:
    assert list(perturbed_cases("bullets", [GROUPS["expand"]], 3)) == []


def test_passages_read_apart_do_not_see_each_other_and_questions_see_all() -> None:
    sample = Sample(
        "",
        "Passages:\n[1] One.\n[2] Two.\n\n",
        [Branch("answer", [("Q?", "One [1]")])],
        "[1] One.\n[2] Two.",
        True,
    )
    row = row_of(sample, Encoder())
    tokens, positions, groups = (torch.tensor(row[i].astype("int64"))[None] for i in range(3))
    network = Network(Shape(width=32, layers=2, heads=2, kv_heads=1, hidden=32))
    first, second = groups % BRANCHES == APART, groups % BRANCHES == APART + 1
    asked = groups % BRANCHES == 1

    def hidden(tokens: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            states: torch.Tensor = network(tokens, positions, dense_mask(groups))
        return states

    plain, changed = hidden(tokens), hidden(torch.where(first, 77, tokens))
    torch.testing.assert_close(plain[second], changed[second])
    assert not torch.allclose(plain[asked], changed[asked])
    assert not torch.allclose(hidden(torch.where(second, 77, tokens))[asked], plain[asked])


def test_an_agent_is_never_told_to_know_what_it_has_not_seen() -> None:
    rng = Random(3)
    for _ in range(40):
        sample = agent.actions(rng, 2, 1.0, multi_turn=1.0, ranked=1.0)
        for branch in sample.branches:
            seen = " ".join(user for user, _ in branch.turns)
            last = json.loads(branch.turns[-1][1])
            if last["tool"] == "finish" and last["input"] != "not found":
                assert last["input"] in seen


def test_every_task_of_the_evaluation_has_an_instruction_in_new_words() -> None:
    for group in GROUPS.values():
        (case,) = cases(group, 1, 0.5)
        other = perturbed(case.sample, "instruction in new words", Random(1))
        assert other is not None
        assert other.system != case.sample.system
