from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.runtime.llm.step_cost import StepCost

_GRID = [(cached, new) for cached in (0, 256, 1024, 4096) for new in (16, 64, 256, 1024)]


@pytest.mark.parametrize(("base", "token", "pair"), [(5.0, 0.02, 1e-5), (0.0, 0.3, 0.0), (2.0, 0.01, 1e-4)])
def test_a_profile_that_follows_the_model_is_found_again(base: float, token: float, pair: float) -> None:
    true = StepCost(token, pair)
    fitted = StepCost.fit([(cached, new, base + true.ms(cached, new)) for cached, new in _GRID])
    assert fitted.token_ms == pytest.approx(token, rel=1e-6)
    assert fitted.pair_ms == pytest.approx(pair, rel=1e-6, abs=1e-12)
    assert fitted.step_ms == pytest.approx(base, rel=1e-6, abs=1e-6)


def test_one_point_makes_a_cost_by_tokens() -> None:
    assert StepCost.fit([(0, 16, 4.0)]) == StepCost(0.25, step_ms=0.0)


def test_noise_never_makes_a_negative_cost() -> None:
    falling = [(cached, new, 100 / new + 1e-3 * cached) for cached, new in _GRID]
    fitted = StepCost.fit(falling)
    assert fitted.token_ms > 0
    assert fitted.pair_ms >= 0


@given(
    base=st.floats(1, 10),
    token=st.floats(0.01, 0.1),
    pair=st.sampled_from([0.0, 1e-7, 1e-5]),
    noise=st.lists(st.floats(0.8, 1.25), min_size=len(_GRID), max_size=len(_GRID)),
)
def test_noise_makes_no_fit_worse_than_what_was_measured(
    base: float, token: float, pair: float, noise: list[float]
) -> None:
    true = StepCost(token, pair, base)
    measured = [
        (cached, new, (base + true.ms(cached, new)) * factor)
        for (cached, new), factor in zip(_GRID, noise, strict=True)
    ]

    def error(cost: StepCost) -> float:
        return sum(((cost.step_ms + cost.ms(cached, new)) / ms - 1) ** 2 for cached, new, ms in measured)

    assert error(StepCost.fit(measured)) <= error(true) + 1e-9


def test_a_step_costs_something_where_context_seems_to_cost_less_than_nothing() -> None:
    """As measured on an H100: by three coefficients, that of pairs would be slightly below 0."""
    measured = [(0, 16, 7.0), (0, 64, 22.5), (0, 256, 19.2), (0, 1024, 23.6), (256, 256, 18.9)]
    measured += [(1024, 64, 18.3), (1024, 256, 13.1), (4096, 16, 8.1), (4096, 256, 11.7), (4096, 1024, 28.2)]
    assert StepCost.fit(measured).step_ms > 7


def test_a_draft_must_be_likelier_the_more_texts_share_a_step_and_the_longer_its_context_is() -> None:
    cost = StepCost(token_ms=1.0, step_ms=4.0)
    assert [cost.worth(0, batch) for batch in (1, 4, 16)] == [0.2, 0.5, 0.8]
    assert StepCost(token_ms=1.0, pair_ms=0.01, step_ms=4.005).worth(300, 1) == pytest.approx(0.5)
    assert StepCost(token_ms=1.0, step_ms=0.0).worth(0, 1) == 1.0


@given(
    token=st.floats(1e-4, 10),
    pair=st.floats(0, 1e-2),
    cached=st.integers(0, 100_000),
    ms=st.floats(0, 1000),
)
def test_the_most_tokens_fit_and_one_more_does_not(token: float, pair: float, cached: int, ms: float) -> None:
    cost = StepCost(token, pair)
    count = cost.most(cached, ms)
    assert cost.ms(cached, count) <= ms * (1 + 1e-6) + 1e-6
    assert cost.ms(cached, count + 1) > ms * (1 - 1e-6)
