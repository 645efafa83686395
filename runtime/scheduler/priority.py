"""Priority policies: whose turn it is, among primitives that wait for the same kind of engine.

A rank is a time: a primitive goes before those that would have had to arrive later to be its equals. So
whoever waits is overtaken only by what arrives within a bounded time, and nothing starves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from .state import LiveNode

__all__ = ["PRIORITY", "STEP_S", "Arrival", "Attained", "Priority", "Remaining"]

STEP_S: Final = 5.0
"""That one step of a run's priority is worth."""
_WEIGHT: Final = 1.0  # seconds of waiting that outweigh a second of work


class Priority(Protocol):
    """The order of primitives."""

    def rank(self, live: LiveNode) -> float:
        """Seconds; the smallest goes first."""
        ...


class Arrival:
    """The run that began first (first come, first served by program)."""

    def rank(self, live: LiveNode) -> float:
        """When the run began, less what its priority is worth."""
        return live.run.started - STEP_S * live.run.priority


class Remaining(Arrival):
    """The run that needs least of the engines until its end; one whose deadline is near goes first.

    That is the shortest remaining processing time, which serves the mean: of all branches of the run, as
    others wait for all of them, and not of its tools and people, as nobody does. How near a deadline is
    depends on the longest way to the end, tools and people on it included.

    Of a run that grows, what follows is not known. What engines have spent on it stands for that: of work
    whose amount is unknown and varies much, about as much is to be expected as has been seen.
    """

    def rank(self, live: LiveNode) -> float:
        """When a run of no length would have had to begin to be its equal."""
        run = live.run
        unknown_ms = run.served_ms if run.grows else 0.0
        rank = super().rank(live) + _WEIGHT * (run.work_ms + unknown_ms) / 1e3
        if run.deadline is None:
            return rank
        return min(rank, run.deadline - (live.primitive.forecast.remaining_ms + unknown_ms) / 1e3)


class Attained(Arrival):
    """The run on which engines have spent least (PLAS of Autellix, arXiv:2502.13965, section 4.2)."""

    def rank(self, live: LiveNode) -> float:
        """When a run that has had nothing would have had to begin to be its equal."""
        return super().rank(live) + _WEIGHT * live.run.served_ms / 1e3


PRIORITY: Final[Mapping[str, Callable[[], Priority]]] = {
    "arrival": Arrival,
    "remaining": Remaining,
    "attained": Attained,
}
