"""The benchmark of schedulers: every arm gets the same programs at the same times."""

from __future__ import annotations

import random
from collections import Counter

import mixed
from workloads.nonsense import nonsense


def test_every_arm_gets_the_same_programs_at_the_same_times() -> None:
    for scenario in mixed.SCENARIOS:
        made = mixed.arrivals(scenario, 60.0)
        assert made == mixed.arrivals(scenario, 60.0)
        assert [arrival.second for arrival in made] == sorted(arrival.second for arrival in made)
        assert made[-1].second < 60.0


def test_families_are_asked_for_by_their_weights() -> None:
    asked = Counter(arrival.arguments[0] for arrival in mixed.arrivals("four families", 600.0))
    shares = [count / asked.total() for _, count in asked.most_common()]
    expected = [weight / sum(mixed.WEIGHTS) for weight in mixed.WEIGHTS]
    assert len(shares) == mixed.FAMILIES
    assert all(abs(share - weight) < 0.1 for share, weight in zip(shares, expected, strict=True))


def test_thinking_is_no_time_of_a_program() -> None:
    kinds = {arrival.kind: arrival.thinking_s for arrival in mixed.arrivals("chat + map-reduce", 60.0)}
    assert kinds == {"chat": mixed.THINKS_S * (mixed.TURNS - 1), "map_reduce": 0.0}


def test_nonsense_has_so_many_words() -> None:
    assert len(nonsense(random.Random(1), 17).split()) == 17
    assert nonsense(random.Random(1), 5) == nonsense(random.Random(1), 5)
