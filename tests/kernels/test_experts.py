"""Mixtures of experts against each token by itself in float64, on torch and on Triton."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import silu

from weft.kernels.dispatch import Side
from weft.kernels.experts import Routing, mix_experts, route
from weft.kernels.fp8 import FP8, Fp8Matrix, quantize_rows

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def routing(experts: torch.Tensor) -> Routing:
    return Routing(experts.int().to(DEVICE), random(*experts.shape, seed=9).sigmoid())


def chosen_at_random(tokens: int, places: int, experts: int, seed: int = 0) -> Routing:
    """Different experts for each token, in no order."""
    return routing(random(tokens, experts, seed=seed).argsort(-1)[:, :places])


def one_by_one(x: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor, to: Routing) -> torch.Tensor:
    """Each pair of a token and an expert by itself, in float64."""
    total = torch.zeros_like(x, dtype=torch.float64)
    for token, (experts, weights) in enumerate(zip(to.experts.tolist(), to.weights.tolist(), strict=True)):
        for expert, weight in zip(experts, weights, strict=True):
            gate, up = (gate_up[expert].double() @ x[token].double()).chunk(2)
            total[token] += weight * (down[expert].double() @ (silu(gate) * up))
    return total


def check(side: Side, shape: tuple[int, int, int, int], to: Routing, dtype: torch.dtype) -> None:
    tokens, hidden, inner, experts = shape
    x = random(tokens, hidden).to(dtype)
    gate_up = (random(experts, 2 * inner, hidden, seed=1) / hidden**0.5).to(dtype)
    down = (random(experts, hidden, inner, seed=2) / inner**0.5).to(dtype)
    out = mix_experts.on(side)(x, gate_up, down, to)
    assert (out.dtype, out.shape) == (dtype, x.shape)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    expected = one_by_one(x, gate_up, down, to)
    torch.testing.assert_close(out.double(), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("tokens", "hidden", "inner", "experts", "places"),
    [
        (1, 64, 48, 8, 2),
        (5, 96, 40, 4, 3),  # widths that no tile divides
        (3, 64, 32, 60, 8),  # more experts than pairs
        (2, 16, 16, 1, 1),
        (40, 64, 32, 3, 2),  # tiles of more rows, of which some are filled and some are not
        (150, 64, 32, 3, 2),
    ],
)
def test_a_token_gets_what_its_experts_give(
    tokens: int, hidden: int, inner: int, experts: int, places: int, dtype: torch.dtype, side: Side
) -> None:
    to = chosen_at_random(tokens, places, experts)
    check(side, (tokens, hidden, inner, experts), to, dtype)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("expert", [0, 3, 6])
@pytest.mark.parametrize("tokens", [1, 17, 130])
def test_all_tokens_may_go_to_one_expert(tokens: int, expert: int, side: Side) -> None:
    to = routing(torch.full((tokens, 1), expert))
    check(side, (tokens, 32, 16, 7), to, torch.float32)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 30), st.integers(1, 9), st.data())
def test_pairs_lie_in_the_order_of_experts(tokens: int, experts: int, data: st.DataObject) -> None:
    """Some experts may get none, and a token may go to one twice."""
    from weft.kernels.gpu.experts import sort_pairs

    places = data.draw(st.integers(1, 4))
    each = st.lists(st.integers(0, experts - 1), min_size=places, max_size=places)
    drawn = torch.tensor(data.draw(st.lists(each, min_size=tokens, max_size=tokens)))
    by_expert = sort_pairs(routing(drawn), experts)
    flat = drawn.flatten()
    assert by_expert.order.tolist() == flat.argsort(stable=True).tolist()
    assert by_expert.starts.tolist() == [int((flat < expert).sum()) for expert in range(experts + 1)]
    for rows in (1, 4, 16):
        needed = sum(-(-count // rows) for count in flat.bincount(minlength=experts).tolist())
        assert needed <= by_expert.blocks(rows) <= len(flat)


def test_more_pairs_than_are_sorted_at_once(side: Side) -> None:
    to = chosen_at_random(1500, 2, 5)
    check(side, (1500, 16, 16, 5), to, torch.float32)


@pytest.mark.parametrize("tokens", [1, 40])
def test_experts_in_eight_bits(tokens: int, side: Side) -> None:
    """Inputs are rounded as rows are, once before each product."""
    hidden, inner, experts = 64, 48, 4
    x = random(tokens, hidden).bfloat16()
    whole = [random(experts, 2 * inner, hidden, seed=1) / 8, random(experts, hidden, inner, seed=2) / 7]
    gate_up, down = (Fp8Matrix.of(matrix) for matrix in whole)
    assert gate_up.values.dtype == FP8
    assert gate_up.factors.shape == (experts, 2 * inner, 1)
    to = chosen_at_random(tokens, 2, experts)
    values, factors = quantize_rows(x)
    given_back = [matrix.values.float() * matrix.factors for matrix in (gate_up, down)]
    expected = one_by_one(values.float() * factors, given_back[0], given_back[1], to)
    out = mix_experts.on(side)(x, gate_up, down, to).double()
    assert (out - expected).norm() < 0.05 * expected.norm()
    full = one_by_one(x, whole[0], whole[1], to)
    assert 0 < (out - full).norm() < 0.1 * full.norm()


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize(("experts", "chosen"), [(8, 2), (60, 4), (128, 8), (3, 3), (1, 1)])
@pytest.mark.parametrize("shared", [0, 1, 4])
def test_the_likeliest_experts_are_chosen(
    experts: int, chosen: int, shared: int, normalized: bool, side: Side
) -> None:
    logits = random(5, experts + (shared > 0)) * 3
    found = route.on(side)(logits, chosen=chosen, normalized=normalized, shared=shared)
    probabilities = logits[:, :experts].double().softmax(-1)
    weights, likeliest = probabilities.topk(chosen, -1)
    if normalized:
        weights = weights / weights.sum(-1, keepdim=True)
    assert torch.equal(found.experts[:, :chosen].long(), likeliest)
    torch.testing.assert_close(found.weights[:, :chosen].double(), weights, atol=1e-6, rtol=1e-5)
    assert (found.experts[:, chosen:] == experts + torch.arange(shared, device=DEVICE)).all()
    gate = logits[:, -1:].sigmoid().expand(-1, shared)
    torch.testing.assert_close(found.weights[:, chosen:], gate)
    assert (found.experts.dtype, found.weights.dtype) == (torch.int32, torch.float32)


def test_the_first_of_equals_is_chosen(side: Side) -> None:
    logits = torch.tensor([[1.0, 2.0, 2.0, 2.0, 0.0, 1.0]], device=DEVICE).bfloat16()
    assert route.on(side)(logits, chosen=4, normalized=True).experts.tolist() == [[1, 2, 3, 0]]


def test_experts_are_told_apart_whose_softmax_is_nothing(side: Side) -> None:
    logits = torch.tensor([[0.0, 200.0, -5.0, -4.0, -3.0]], device=DEVICE)
    assert route.on(side)(logits, chosen=3, normalized=True).experts.tolist() == [[1, 0, 4]]


def test_a_step_gives_each_token_what_it_gets_alone(side: Side) -> None:
    x, to = random(9, 32), chosen_at_random(9, 2, 4)
    gate_up, down = random(4, 32, 32, seed=1) / 6, random(4, 32, 16, seed=2) / 4
    together = mix_experts.on(side)(x, gate_up, down, to)
    apart = [
        mix_experts.on(side)(x[i : i + 1], gate_up, down, Routing(*(part[i : i + 1] for part in to)))
        for i in range(9)
    ]
    torch.testing.assert_close(together, torch.cat(apart), atol=1e-5, rtol=1e-5)
