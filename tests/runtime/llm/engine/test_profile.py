"""Which steps are timed, and which of their times counts."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from weft.runtime.llm import profile
from weft.runtime.llm.limits import Limits
from weft.runtime.llm.profile import measure_profile

LIMITS = Limits(context_length=2048, token_budget=512, max_running=64)


class Meter:
    """Steps of a size take long when it is met first."""

    met: Counter[profile._Point]

    def __init__(self, *_: object) -> None:
        Meter.met = Counter()

    def warm_up(self) -> None:
        pass

    def time(self, point: profile._Point) -> float:
        Meter.met[point] += 1
        return 20.0 if Meter.met[point] == 1 else 2.0


@pytest.fixture(autouse=True)
def meter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "_Meter", Meter)


def measured(seconds: float, slots: int = 2048) -> profile.Profile:
    runner: Any = None  # that only a real meter asks
    return measure_profile(runner, np.arange(slots), LIMITS, seconds)


@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_what_a_size_costs_when_it_is_met_first_does_not_count(seconds: float) -> None:
    found = measured(seconds)
    assert {point.ms for point in found.prefill} == {point.ms for point in found.decode} == {2.0}
    assert min(Meter.met.values()) >= 2


def test_without_time_there_is_one_point_of_each_kind() -> None:
    found = measured(0.0)
    assert (len(found.prefill), len(found.decode)) == (1, 1)


def test_with_time_every_size_that_fits_is_measured() -> None:
    found = measured(60.0)
    assert {point.new for point in found.prefill} == {16, 64, 256}  # 1024 exceeds the budget of a step
    assert all(point.cached + point.new <= 2048 for point in found.prefill)
    assert {(point.batch, point.context) for point in found.decode} >= {(1, 64), (64, 1024)}


def test_too_few_slots_are_refused() -> None:
    with pytest.raises(ValueError, match="10 free KV slots are too few"):
        measured(1.0, slots=10)
