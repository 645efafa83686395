"""The benchmark of schedulers: every arm gets the same programs at the same times."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path
from statistics import median

import mixed
import pytest
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


def test_thinking_and_tools_are_no_time_of_a_program() -> None:
    thinks_s = mixtures.THINKS_S * (mixtures.TURNS - 1)
    for arrival in (each for scenario in mixtures.SCENARIOS for each in mixtures.arrivals(scenario, 60.0)):
        tools_s = sum(step.seconds for step in arrival.arguments[1]) if arrival.kind == "agent" else 0.0
        assert arrival.asleep_s == (thinks_s if arrival.kind == "chat" else tools_s)


def test_agents_are_those_of_the_simulator() -> None:
    made = mixtures.arrivals("agents", 200.0, scale=16)
    steps = [step for arrival in made for step in arrival.arguments[1]]
    tools = Counter(step.tool for step in steps)
    shares = {name: 100 * count / len(steps) for name, count in tools.items()}
    assert shares == pytest.approx(mixtures.BROWSERS.tools, abs=2.0)
    assert (min(step.tokens for step in steps), max(step.tokens for step in steps)) == mixtures.BROWSERS.out
    assert median(step.seconds for step in steps if step.tool == "web") == pytest.approx(0.85, rel=0.1)
    assert max(step.seconds for step in steps) == mixtures.PATIENCE_S


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
