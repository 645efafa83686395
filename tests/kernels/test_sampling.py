"""Sampling: greedy, filters, distribution, and independence of the batch."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.kernels.sampling import GREEDY, Draw, sample, uniform

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
SEEDS = st.integers(-(2**63), 2**64 - 1)


def logits(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows)


def random_logits(rows: int, vocab: int) -> torch.Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(0)) * 3


@settings(deadline=None)
@given(seed=SEEDS, position=st.integers(0, 10**6))
def test_uniform_lies_between_0_and_1_and_is_reproducible(seed: int, position: int) -> None:
    assert 0 < uniform(seed, position) < 1
    assert uniform(seed, position) == uniform(seed, position)


def test_uniform_is_spread_evenly_over_seeds_and_positions() -> None:
    for numbers in (
        [uniform(seed, 0) for seed in range(4000)],
        [uniform(0, position) for position in range(4000)],
    ):
        mean = sum(numbers) / len(numbers)
        assert abs(mean - 0.5) < 4 * math.sqrt(1 / 12 / len(numbers))
        assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("device", DEVICES)
def test_greedy_takes_the_most_likely(device: str) -> None:
    assert sample(logits([0.0, 2.0, 1.0], [3.0, -1.0, 2.0]).to(device), [GREEDY, GREEDY]).tolist() == [1, 0]


@pytest.mark.parametrize("device", DEVICES)
def test_draws_follow_the_distribution(device: str) -> None:
    draws = [Draw(temperature=2.0, seed=5, position=position) for position in range(6000)]
    row = logits([1.0, 0.0, -math.inf, 2.0]).to(device)
    tokens = sample(row.expand(len(draws), -1), draws)
    expected = (row.double() / 2).softmax(-1)[0]
    frequency = tokens.bincount(minlength=4) / len(draws)
    assert frequency[2] == 0
    torch.testing.assert_close(frequency.double(), expected, atol=0.025, rtol=0)


@pytest.mark.parametrize(
    ("draw", "allowed"),
    [
        (Draw(1.0, top_k=1), {3}),
        (Draw(1.0, top_k=2), {3, 0}),
        (Draw(1.0, top_p=0.5), {3}),
        (Draw(1.0, top_p=0.7), {3, 0}),
        (Draw(1.0, top_p=1e-9), {3}),
        (Draw(1.0, top_k=3, top_p=0.92), {3, 0}),  # two have 90 % of all, but 93 % of the three
        (Draw(1e-6), {3}),
        (Draw(1e-30), {3}),
        (Draw(1.0, top_k=99), {0, 1, 2, 3}),
    ],
)
def test_filters(draw: Draw, allowed: set[int]) -> None:
    row = torch.tensor([[0.3, 0.07, 0.03, 0.6]]).log()
    draws = [Draw(draw.temperature, draw.top_k, draw.top_p, seed=seed, position=0) for seed in range(400)]
    assert set(sample(row.expand(400, -1), draws).tolist()) == allowed


def test_ties_do_not_widen_top_k() -> None:
    draws = [Draw(1.0, top_k=2, seed=seed) for seed in range(200)]
    assert len(set(sample(torch.zeros(200, 5), draws).tolist())) == 2


@settings(deadline=None)
@given(order=st.permutations(range(6)))
def test_a_row_does_not_depend_on_its_batch(order: list[int]) -> None:
    rows = random_logits(6, 50)
    draws = [
        GREEDY,
        Draw(0.7, seed=1),
        Draw(1.0, top_k=5, seed=2, position=3),
        Draw(1.5, top_p=0.6, seed=3),
        Draw(1.0, top_k=7, top_p=0.9, seed=4),
        Draw(1.0, seed=4, position=9),
    ]
    alone = [int(sample(rows[row : row + 1], [draws[row]])) for row in range(6)]
    together = sample(rows[order], [draws[row] for row in order]).tolist()
    assert together == [alone[row] for row in order]
