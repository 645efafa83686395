"""Sampling: greedy, filters, distribution, and independence of the batch."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.kernels.dispatch import Side
from weft.kernels.sampling import GREEDY, Draw, Draws, draw, sample, uniform

GPU = torch.cuda.is_available()
DEVICES = ["cpu", *(["cuda"] if GPU else [])]
SEEDS = st.integers(-(2**63), 2**64 - 1)


def logits(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows)


def random_logits(rows: int, vocab: int) -> torch.Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(0)) * 3


def by_definition(seed: int, position: int) -> float:
    """SplitMix64 in unbounded integers."""

    def mix(state: int) -> int:
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        state = ((state ^ state >> 30) * 0xBF58476D1CE4E5B9) % 2**64
        state = ((state ^ state >> 27) * 0x94D049BB133111EB) % 2**64
        return state ^ state >> 31

    return ((mix((mix(seed % 2**64) + position) % 2**64) >> 32) + 0.5) / 2**32


@settings(deadline=None)
@given(seed=SEEDS, position=st.integers(0, 10**6))
def test_uniform_depends_on_all_bits_of_seed_and_position(seed: int, position: int) -> None:
    draws = Draws.of([Draw(seed=seed, position=position)], torch.device("cpu"))
    number = float(uniform(draws.seed, draws.position))
    assert 0 < number < 1
    assert number == by_definition(seed, position)


def test_uniform_is_spread_evenly_over_seeds_and_positions() -> None:
    many, zero = torch.arange(4000), torch.zeros(4000, dtype=torch.int64)
    for numbers in (uniform(many, zero), uniform(zero, many)):
        assert abs(float(numbers.mean()) - 0.5) < 4 * math.sqrt(1 / 12 / 4000)
        assert len(set(numbers.tolist())) == 4000


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


MIXED = [
    GREEDY,
    Draw(0.8, seed=1),
    Draw(1.0, top_k=5, seed=-2, position=3),
    Draw(1.5, top_p=0.6, seed=3),
    Draw(2.0, top_k=7, top_p=0.9, seed=2**64 - 1),
    Draw(1e-30, top_k=10**6, seed=5),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])  # the latter has many ties
def test_a_draw_inverts_the_distribution_that_the_filters_leave(dtype: torch.dtype, side: Side) -> None:
    repeats, vocab = (40, 128_256) if GPU else (1, 150)
    draws = [replace(how, position=how.position + at) for at in range(repeats) for how in MIXED]
    device = torch.device("cuda" if GPU else "cpu")
    rows = random_logits(len(draws), vocab).to(device, dtype)
    rows[1::7, : vocab // 2] = -torch.inf
    tokens = draw.on(side)(rows, Draws.of(draws, device))
    for logit, how, token in zip(rows.cpu().double(), draws, tokens.tolist(), strict=True):
        if how.temperature == 0:
            assert token == int(logit.argmax())
            continue
        weights = kept_weights(logit, how)
        up_to = weights[: token + 1].sum()
        target = by_definition(how.seed, how.position)
        assert up_to - weights[token] - 1e-4 <= target <= up_to + 1e-4
        assert logit[token] >= logit[weights > 0].min()


def kept_weights(logits: torch.Tensor, how: Draw) -> torch.Tensor:
    """By definition: the filtered distribution."""
    weights = ((logits - logits.max()) / how.temperature).exp()
    order = sorted(range(len(logits)), key=lambda token: (-float(logits[token]), token))
    kept = order[: how.top_k or None]
    before = weights[kept].cumsum(0) - weights[kept]
    if how.top_p < 1:
        kept = [kept[rank] for rank in (before < how.top_p * weights[kept].sum()).nonzero()[:, 0]]
    out = torch.zeros_like(weights)
    out[kept] = weights[kept]
    return out / out.sum()


SEEDS_OF_BOTH = (1, 0)  # which draw below and above a half


def test_the_lower_of_equal_tokens_are_kept_and_the_first_is_most_likely(side: Side) -> None:
    device = torch.device("cuda" if GPU else "cpu")
    draws = [GREEDY, *(Draw(1.0, top_k=2, seed=seed) for seed in SEEDS_OF_BOTH)]
    rows = torch.tensor([[-math.inf, 1.0, 0.5, 1.0, 1.0]], device=device).expand(len(draws), -1)
    tokens = draw.on(side)(rows, Draws.of(draws, device)).tolist()
    assert tokens[0] == 1
    assert set(tokens[1:]) == {1, 3}
