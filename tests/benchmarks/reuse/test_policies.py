from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from reuse.measures import FULL, Measured, compare
from reuse.policies import CHOOSERS, Policy, Situation, read_alone, recomputed, run
from reuse.prompts import Prompt, prompts
from torch import Tensor

from weft.apps.reference_model.training.encoder import MODEL
from weft.apps.reference_model.training.network import Network, Shape, dense_mask, load

torch.manual_seed(1)
NETWORK = Network(Shape(width=32, layers=3, heads=4, kv_heads=2, hidden=48))
PROMPT = Prompt(
    [1, 3, 90, 91], [[100, 101, 102], [103, 104, 105, 106, 107], [100, 108]], [92, 93, 5], [7, 8, 2]
)
ONE_CHUNK = Prompt([], [[100, 101, 102, 103]], [92, 93, 5], [7, 8, 2])


def scores(policy: Policy, prompt: Prompt = PROMPT) -> Tensor:
    room = len(prompt.tokens) + len(prompt.reply)
    return run(NETWORK, prompt, prompt.reply, policy, read_alone(NETWORK, prompt, room))


def chosen(policy: Policy) -> list[int]:
    alone = read_alone(NETWORK, PROMPT, len(PROMPT.tokens))
    rows = recomputed(Situation(NETWORK, PROMPT, alone, policy.share), policy)
    assert rows == sorted(set(rows))
    inside = range(len(PROMPT.head), PROMPT.end)
    assert set(range(len(PROMPT.tokens))) - set(inside) <= set(rows)
    return [row for row in rows if row in inside]


def test_full_recomputation_is_the_network_itself() -> None:
    tokens = torch.tensor([[*PROMPT.tokens, *PROMPT.reply]])
    size = tokens.shape[1]
    with torch.no_grad():
        hidden = NETWORK(
            tokens, torch.arange(size)[None], dense_mask(torch.ones((1, size), dtype=torch.int32))
        )
        whole = NETWORK.logits(hidden[0, -len(PROMPT.reply) - 1 : -1])
    torch.testing.assert_close(scores(FULL), whole, rtol=1e-5, atol=1e-6)
    assert torch.equal(scores(FULL), scores(FULL))


def test_an_exact_prefix_changes_nothing() -> None:
    torch.testing.assert_close(scores(Policy("prefix")), scores(FULL), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CHOOSERS)
def test_recomputing_everything_is_full_recomputation(name: str) -> None:
    torch.testing.assert_close(scores(Policy(name, 1.0)), scores(FULL), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("prompt", [ONE_CHUNK, replace(ONE_CHUNK, head=PROMPT.head)])
@pytest.mark.parametrize("name", ["naive", "unrotated"])
def test_a_single_passage_is_read_the_same_alone(name: str, prompt: Prompt) -> None:
    torch.testing.assert_close(scores(Policy(name), prompt), scores(FULL, prompt), rtol=1e-5, atol=1e-6)


def test_passages_read_alone_are_not_passages_read_in_context() -> None:
    naive, unrotated, full = scores(Policy("naive")), scores(Policy("unrotated")), scores(FULL)
    assert (naive - full).abs().max() > 1e-4
    assert (unrotated - naive).abs().max() > 1e-4


@pytest.mark.parametrize("name", CHOOSERS)
def test_recomputing_nothing_is_naive_reuse(name: str) -> None:
    assert torch.equal(scores(Policy(name, 0.0)), scores(Policy("naive")))


def test_what_is_recomputed() -> None:
    assert chosen(Policy("naive")) == []
    assert chosen(Policy("first", 0.3)) == [4, 7, 8, 12]
    assert len(chosen(Policy("random", 0.3))) == len(chosen(Policy("deviation", 0.3))) == 4


def test_prompts_are_cut_at_passages_and_full_recomputation_is_its_own_measure() -> None:
    (prompt,) = prompts("direct, 4-16 passages", 1)
    assert 4 <= len(prompt.chunks) <= 16
    full, prefix = compare(load(MODEL), prompt, [FULL, Policy("prefix")])
    assert full == Measured(exact=True, divergence=0.0, agreement=1.0)
    assert prefix.exact
    assert prefix.agreement == 1
    assert prefix.divergence < 1e-9
