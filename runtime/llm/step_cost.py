"""How long prompts make a step: the measured profile as a function that the planner can invert. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["StepCost"]


@dataclass(frozen=True, slots=True)
class StepCost:
    """Milliseconds that tokens of prompts add to a step.

    Unmeasured, every token takes one, whatever its context: then milliseconds are just tokens, and what a
    step takes besides is set to four.
    """

    token_ms: float = 1.0  # of each token
    pair_ms: float = 0.0  # of each token and each one before it, which it attends to
    step_ms: float = 4.0  # of a step, whatever it computes

    @classmethod
    def fit(cls, points: Sequence[tuple[int, int, float]]) -> StepCost:
        """The closest to measured (cached, new, ms), of which there must be one; relative errors count.

        No coefficient is negative: of the fits with only some of them, it is the closest that has none.
        """
        times = np.array([ms for _, _, ms in points])
        features = np.array([(1.0, new, _pairs(cached, new)) for cached, new, _ in points]) / times[:, None]
        best, least = cls(min(ms / new for _, new, ms in points), step_ms=0.0), math.inf
        for columns in ((0, 1, 2), (0, 1), (1, 2)):
            solution, _, rank, _ = np.linalg.lstsq(features[:, columns], np.ones(len(points)))
            found = dict(zip(columns, solution.tolist(), strict=True))
            error = float(np.sum((features[:, columns] @ solution - 1) ** 2))
            if rank == len(columns) and min(solution) >= 0 and found[1] > 0 and error < least:
                best, least = cls(found[1], found.get(2, 0.0), found.get(0, 0.0)), error
        return best

    def ms(self, cached: int, new: int) -> float:
        """The time of `new` tokens behind `cached` ones."""
        return self.token_ms * new + self.pair_ms * _pairs(cached, new)

    def worth(self, cached: int, batch: int) -> float:
        """How likely a drafted token must be to pay, behind `cached` ones in a step of `batch` texts.

        It costs the time of a token; if it is right, that is saved later, and the text's share of a step.
        """
        token_ms = self.ms(cached, 1)
        return token_ms / (token_ms + self.step_ms / batch)

    def most(self, cached: int, ms: float) -> int:
        """The most tokens behind `cached` ones that take no longer than `ms`."""
        linear = self.token_ms + self.pair_ms * cached
        if ms <= 0:
            return 0
        # The positive root of pair_ms / 2 * n² + linear * n = ms, in the form that holds without pairs, too.
        return int(2 * ms / (linear + math.sqrt(linear**2 + 2 * self.pair_ms * ms)) + 1e-9)


def _pairs(cached: int, new: int) -> float:
    """How many keys `new` queries attend to, itself counted as half."""
    return new * (cached + new / 2)
