"""Machines that are not always equally fast: drawn by seed, for as long as was measured."""

from __future__ import annotations

import statistics
from dataclasses import replace
from itertools import pairwise

import pytest

from weft.runtime.scheduler.scheduler import Scheduler
from weft.runtime.simulator.builder import Text
from weft.runtime.simulator.programs import Arrival
from weft.runtime.simulator.simulation import Simulation
from weft.runtime.simulator.spread import Spread, Stretch
from weft.runtime.simulator.worker import SimWorker

from .conftest import LLM, builder

UNEVEN = Spread(((0.8, 1.0), (1.0, 2.0), (2.0, 1.0)), lasts_s=0.3)
MEAN = 1.2


def seconds(spread: Spread | None, seed: int = 0, *, writes: int = 20) -> list[float]:
    """How long calls take of which none overlap: 0.1 s to read and 0.01 s for each further token."""
    simulation = Simulation(Scheduler())
    llm = replace(LLM, spread=spread)
    simulation.join(lambda clock, report: SimWorker("w", clock, report, llms=[llm], seed=seed))
    arrivals = []
    for number in range(100):
        p = builder(f"call {number}")
        p.write([Text(f"text {number}", 100)], writes)
        arrivals.append(Arrival(100.0 * number, p.build()))
    return [run.seconds for run in simulation.run(arrivals).runs]


def test_the_same_seed_draws_the_same_and_another_one_something_else() -> None:
    assert seconds(UNEVEN) == seconds(UNEVEN)
    assert seconds(UNEVEN, seed=1) != seconds(UNEVEN)


def test_what_is_always_the_same_multiple_takes_that() -> None:
    even = seconds(None, writes=1)
    assert even == seconds(None, seed=1, writes=1)
    assert seconds(Spread(((1.0, 1.0),), lasts_s=0.05), writes=1) == pytest.approx(even)
    slow = seconds(Spread(((3.0, 1.0),), lasts_s=0.05), writes=21)
    assert [b - a for a, b in zip(even, slow, strict=True)] == pytest.approx([0.8] * 100)


def test_each_stretch_is_drawn_as_often_as_it_was_measured_and_the_next_one_at_even_odds() -> None:
    stretch = Stretch(UNEVEN, "seed")
    drawn = [stretch.at(0.03 * n) for n in range(100_000)]
    assert statistics.fmean(drawn) == pytest.approx(MEAN, rel=0.02)
    # After a tenth of the time that one lasts, 1 - exp(-1/10) have been drawn anew, 5 of 8 of them another.
    changes = sum(a != b for a, b in pairwise(drawn))
    assert changes / len(drawn) == pytest.approx(0.0952 * 5 / 8, rel=0.05)


def test_a_text_that_takes_longer_than_a_stretch_lasts_has_several() -> None:
    brief, lasting = (seconds(replace(UNEVEN, lasts_s=s), writes=300) for s in (0.1, 20.0))
    progress = 0.25 / 0.8 + 0.5 + 0.25 / 2.0
    assert statistics.fmean(brief) == pytest.approx(3.09 / progress, rel=0.03)
    assert statistics.pstdev(brief) < statistics.pstdev(lasting) / 2
