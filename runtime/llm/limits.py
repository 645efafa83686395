"""What a step may compute, and how prompts share it with the decodes that wait for it. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .sequence import Job
from .step_cost import StepCost

__all__ = ["Limits", "Room"]

_PREFILL_SHARE = 4  # prompts may use at least 1/4 of the budget, however many decodes run
_LEAST_CHUNK = 16  # tokens that prompts get in any step


@dataclass(frozen=True, slots=True)
class Limits:
    """What a step and the engine can bear."""

    context_length: int  # tokens of prompt and output
    token_budget: int = 512  # tokens a step
    max_running: int = 64  # jobs admitted at once
    aging_seconds: float = 5.0  # waiting this long weighs as much as one step of priority

    def __post_init__(self) -> None:
        for name in ("context_length", "token_budget", "max_running"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.aging_seconds <= 0:
            raise ValueError(f"aging_seconds must be positive, not {self.aging_seconds}")


class Room:
    """What a step has for prompts."""

    def __init__(self, limits: Limits, cost: StepCost, decodes: Sequence[Job], now: float) -> None:
        self._aging, self._cost, self._now = limits.aging_seconds, cost, now
        least = max(limits.token_budget // _PREFILL_SHARE, 1)
        self._tokens = max(limits.token_budget - sum(1 + job.trunk.drafted for job in decodes), least)
        self._used_ms = 0.0
        self._most_ms = cost.ms(0, limits.token_budget) if decodes else math.inf
        self._urgency = max((job.priority for job in decodes), default=0)

    def for_chunk(self, job: Job, cached: int) -> int:
        """How many tokens behind `cached` ones `job` may compute."""
        come = (
            job.rank + job.head_start
        )  # which decides whose turn it is, not how long others may wait for it
        waited = (self._now - come) / self._aging  # counted in priorities: its own, which waiting raises
        most_ms = self._most_ms * 0.5 ** max(self._urgency - waited, 0.0)
        count = self._cost.most(cached, most_ms - self._used_ms) if most_ms < math.inf else self._tokens
        if not self._used_ms:
            count = max(count, _LEAST_CHUNK)
        return min(count, self._tokens)

    def take(self, cached: int, count: int) -> None:
        """Use it for a chunk of `count` tokens behind `cached` ones."""
        self._tokens -= count
        self._used_ms += self._cost.ms(cached, count)
