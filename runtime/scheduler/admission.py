"""Admission policies: which runs may use the language models now, so that their contexts fit together.

A run is held back before a turn, never in one: when it comes to a model for the first time, or comes back
from a tool after its context has lost its place. What waits there keeps nobody else waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from .engines import Pool
from .idle import IdleRuns
from .residency import Residency
from .state import LiveNode

__all__ = ["ADMISSION", "Admission", "Everybody", "Growing"]

_LEAST: Final = 0.5  # of the KV, that runs which grow may take whatever the others have


class Admission(Protocol):
    """Who may queue for an engine."""

    def holds_back(self, live: LiveNode, pool: Pool) -> bool:
        """Whether a primitive must wait for a place for its run."""
        ...

    def finds_place(self, live: LiveNode, pool: Pool, now: float) -> bool:
        """Whether there is one now; then the run has it."""
        ...

    def next_chance(self, pool: Pool) -> float | None:
        """If there was none: when to ask again although nothing has happened."""
        ...


class Everybody:
    """Nobody waits here."""

    def __init__(self, residency: Residency) -> None:
        pass

    def holds_back(self, live: LiveNode, pool: Pool) -> bool:
        """Never."""
        return False

    def finds_place(self, live: LiveNode, pool: Pool, now: float) -> bool:
        """Always."""
        return True

    def next_chance(self, pool: Pool) -> float | None:
        """Never."""
        return None


class Growing:
    """Of runs that grow, as many as have room for their contexts; a run whose graph is known never waits.

    So that agents find their contexts again when their tools have answered (ThunderAgent, arXiv:2602.13692,
    and Continuum, arXiv:2511.02230, hold programs back at the same places). A run that waits for a tool keeps
    its place for as long as that is worth it: no longer than the model takes to read as much as it has room
    for, as from then on reading a context again costs less than the room that is kept for it.
    """

    def __init__(self, residency: Residency) -> None:
        self._residency = residency
        self._overdue: dict[Pool, float | None] = {}  # when the next idle run loses its place

    def holds_back(self, live: LiveNode, pool: Pool) -> bool:
        """If its run grows and has no place."""
        return live.run.grows and pool not in live.run.places

    def finds_place(self, live: LiveNode, pool: Pool, now: float) -> bool:
        """If its context fits, or it is the only one."""
        places = live.run.places
        if pool in places:
            return True
        need = self._residency.need(live)
        if pool.kv_slots and _lacking(pool, need) > 0:
            self._overdue[pool] = self._expire_overdue(pool, need, now)
            if _lacking(pool, need) > 0:
                return False
        places[pool] = need
        pool.promise(need)
        return True

    def next_chance(self, pool: Pool) -> float | None:
        """When the next idle run loses its place."""
        return self._overdue[pool]

    def _expire_overdue(self, pool: Pool, need: int, now: float) -> float | None:
        """Free what is lacking, of idle runs whose tools have taken too long.

        If that is not enough: when the next run is overdue, or None if none will be.
        """
        idle, patience = self._idle(pool), self._residency.patience
        while _lacking(pool, need) > 0:
            entry = idle.first()
            if entry is None:
                return None
            due, engine, run = entry
            expiry = engine.idle[run] + patience.worthwhile(run.waits_for, engine.refill_s)
            if expiry > max(due, now):
                idle.postpone(expiry)
            elif due > now:
                return due
            else:
                self._residency.expire(run, engine)
        return None

    def _idle(self, pool: Pool) -> IdleRuns:
        """Those of a pool, which are kept in order from the first time on that somebody finds no place."""
        idle = self._residency.idle.get(pool)
        if idle is None:
            idle = self._residency.idle[pool] = IdleRuns()
            for engine in pool:
                for run, since in engine.idle.items():
                    idle.add(engine, run, since)
        return idle


def _lacking(pool: Pool, need: int) -> float:
    """The tokens by which there would be too many if another run that grows came."""
    growing = pool.grown + pool.promised
    if not growing:
        return 0.0
    return min(need + pool.promised - pool.free, growing + need - _LEAST * pool.kv_slots)


ADMISSION: Final[Mapping[str, Callable[[Residency], Admission]]] = {
    "everybody": Everybody,
    "growing": Growing,
}
