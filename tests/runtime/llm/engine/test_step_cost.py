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
