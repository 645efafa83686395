"""The benchmark of schedulers: every arm gets the same programs at the same times."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

import mixed
from workloads import mixtures
from workloads.nonsense import nonsense
from workloads.servers import server

from weft.runtime.scheduler.policies import Policies


def test_every_arm_gets_the_same_programs_at_the_same_times() -> None:
    for scenario in mixtures.SCENARIOS:
        made = mixtures.arrivals(scenario, 60.0)
        assert made == mixtures.arrivals(scenario, 60.0)
        assert [arrival.second for arrival in made] == sorted(arrival.second for arrival in made)
        assert made[-1].second < 60.0


def test_families_are_asked_for_by_their_weights() -> None:
    asked = Counter(arrival.arguments[0] for arrival in mixtures.arrivals("four families", 600.0))
    shares = [count / asked.total() for _, count in asked.most_common()]
    expected = [weight / sum(mixtures.WEIGHTS) for weight in mixtures.WEIGHTS]
    assert len(shares) == mixtures.FAMILIES
    assert all(abs(share - weight) < 0.1 for share, weight in zip(shares, expected, strict=True))


def test_thinking_is_no_time_of_a_program() -> None:
    made = [arrival for scenario in mixtures.SCENARIOS for arrival in mixtures.arrivals(scenario, 60.0)]
    kinds = {arrival.kind: arrival.thinking_s for arrival in made}
    thinks_s = mixtures.THINKS_S * (mixtures.TURNS - 1)
    assert kinds == {"chat": thinks_s, "map_reduce": 0.0, "chain": 0.0, "family": 0.0, "coding": 0.0}


def test_graphs_and_calls_write_the_same(tmp_path: Path) -> None:
    every = [arrival for scenario in mixtures.SCENARIOS for arrival in mixtures.arrivals(scenario, 20.0)]
    one_each = list({arrival.kind: arrival._replace(second=0.0) for arrival in every}.values())
    with server(tmp_path, workers=2) as client:
        arms = [mixed.Arm(graph, Policies()) for graph in (True, False)]
        texts = [asyncio.run(mixed.run(client, arm, one_each))[0] for arm in arms]
    assert texts[0] == texts[1]
    assert [len(text) for text in texts[0] if isinstance(text, list)] == [mixtures.FILES]


def test_nonsense_has_so_many_words() -> None:
    assert len(nonsense(random.Random(1), 17).split()) == 17
    assert nonsense(random.Random(1), 5) == nonsense(random.Random(1), 5)
