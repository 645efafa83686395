"""How evenly a machine computes: now faster than a profile says, now slower, and for how long."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Spread", "Stretch"]


@dataclass(frozen=True)
class Spread:
    """Multiples of what a profile says. What slows a step, or speeds it up, does so to the next ones, too."""

    stretches: Sequence[tuple[float, float]]  # and how likely each is drawn, as a share of the sum
    lasts_s: float  # in the mean, until another one is drawn


class Stretch:
    """The multiple that holds at a time, which passes only forward; always 1 without a spread."""

    def __init__(self, spread: Spread | None, seed: str) -> None:
        self._spread = spread
        self._rng = random.Random(seed)
        self._value = 1.0
        self._seen_s = -math.inf

    def at(self, now: float) -> float:
        """The last one, or, the likelier the longer ago it was asked for, another one."""
        if self._spread is not None:
            passed, self._seen_s = now - self._seen_s, now
            if self._rng.random() >= math.exp(-passed / self._spread.lasts_s):
                stretches = self._spread.stretches
                ((self._value, _),) = self._rng.choices(stretches, [share for _, share in stretches])
        return self._value

    def steps(self, ms: float) -> float:
        """How many steps of so many milliseconds it lasts in the mean."""
        return self._spread.lasts_s * 1e3 / ms if self._spread is not None else math.inf
