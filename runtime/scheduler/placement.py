"""Placement policies: which worker a fragment goes to when nothing binds it to one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from .state import EngineState, WorkerState

__all__ = ["PLACEMENT", "Candidate", "LeastLoaded", "Placement"]


class Candidate(NamedTuple):
    """A worker with room, and its engine for the fragment."""

    worker: WorkerState
    engine: EngineState


class Placement(Protocol):
    """The choice of a worker."""

    def choose(self, candidates: Sequence[Candidate]) -> WorkerState:
        """One of the candidates, of which there is at least one."""
        ...


class LeastLoaded:
    """The worker whose engine works on the fewest primitives; among equals, that with the fewest tasks."""

    def choose(self, candidates: Sequence[Candidate]) -> WorkerState:
        """The least loaded; the longest-serving of several."""
        return min(candidates, key=_load).worker


def _load(candidate: Candidate) -> tuple[int, int, int]:
    return candidate.engine.active, len(candidate.worker.tasks), candidate.worker.number


PLACEMENT: Final[Mapping[str, Callable[[], Placement]]] = {"least_loaded": LeastLoaded}
