from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reuse.measures import paired_interval

DIFFERENCES = st.lists(st.sampled_from([-100.0, 0.0, 100.0]), min_size=1, max_size=60)


@given(DIFFERENCES)
def test_an_interval_lies_within_what_was_seen(differences: list[float]) -> None:
    found = paired_interval(differences, resamples=200)
    assert min(differences) <= found.low <= found.high <= max(differences)
    assert found.mean == pytest.approx(sum(differences) / len(differences))


@given(DIFFERENCES, st.integers(-50, 50))
def test_an_interval_moves_with_the_differences(differences: list[float], shift: int) -> None:
    found = paired_interval(differences, resamples=200)
    moved = paired_interval([each + shift for each in differences], resamples=200)
    assert (moved.low, moved.high) == pytest.approx((found.low + shift, found.high + shift))


def test_an_interval_is_about_as_wide_as_normal_theory_says() -> None:
    found = paired_interval([100.0] * 50 + [0.0] * 150)
    assert found.high - found.low == pytest.approx(2 * 1.96 * 100 * (0.25 * 0.75 / 200) ** 0.5, rel=0.1)
