"""What a step with drafts costs beside one that is begun ahead."""

from __future__ import annotations

import pytest

from weft.runtime.llm.pace import Pace


def test_until_both_have_been_seen_half_a_token_is_asked() -> None:
    pace = Pace()
    assert pace.price(4) == 0.5
    pace.learn(4, 0.01, drafted=False)
    assert pace.price(4) == 0.5


def test_the_price_is_the_time_that_drafts_take_longer() -> None:
    pace = Pace()
    pace.learn(4, 0.010, drafted=False)
    pace.learn(5, 0.030, drafted=True)  # four to seven texts are one size
    assert pace.price(7) == pytest.approx(2.0)
    assert pace.price(8) == 0.5
    for _ in range(100):
        pace.learn(4, 0.008, drafted=True)
    assert pace.price(4) == pytest.approx(0.0, abs=0.01)


def test_what_was_dear_is_tried_again_after_a_while() -> None:
    pace = Pace()
    pace.learn(1, 0.010, drafted=False)
    pace.learn(1, 0.500, drafted=True)
    dear = pace.price(1)
    for _ in range(10_000):
        pace.learn(1, 0.010, drafted=False)
    assert dear == pytest.approx(49.0)
    assert pace.price(1) == pytest.approx(0.5, abs=0.01)


def test_fast_steps_of_many_texts_leave_no_time_to_look_into_each() -> None:
    pace = Pace()
    assert pace.leisurely(64)
    pace.learn(64, 0.012, drafted=False)
    assert pace.leisurely(64)
    for _ in range(100):
        pace.learn(64, 0.003, drafted=False)
    assert not pace.leisurely(64)
    assert pace.leisurely(8)
