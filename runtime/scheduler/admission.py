"""Admission policies: which runs may use the language models now, so that their contexts fit together.

A run is held back before a turn, never in one: when it comes to a model for the first time, or comes back
from a tool after its context has lost its place. What waits there keeps nobody else waiting.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar, Final, Protocol

from .engines import Pool
from .idle import IdleRuns
from .residency import Residency
from .state import QUEUED, LiveNode

__all__ = ["ADMISSION", "Admission", "Everybody", "Growing", "WorkingSet"]


class Admission(Protocol):
    """Who may queue for an engine."""

    def admits(self, live: LiveNode, pool: Pool, now: float) -> bool:
        """Whether a ready primitive may queue now; if not, it is kept."""
        ...

    def holds_back(self, pool: Pool) -> bool:
        """Whether anybody may be waiting here."""
        ...

    def admitted(self, pool: Pool, now: float) -> Iterator[LiveNode]:
        """Those kept that may queue now; each is to be queued before the next is asked for."""
        ...

    def kept(self, pool: Pool) -> list[LiveNode]:
        """All that wait here."""
        ...

    def next_chance(self, pool: Pool) -> float | None:
        """When to ask again although nothing has happened."""
        ...


class Everybody:
    """Nobody waits here."""

    def __init__(self, residency: Residency) -> None:
        pass

    def admits(self, live: LiveNode, pool: Pool, now: float) -> bool:
        """Always."""
        return True

    def holds_back(self, pool: Pool) -> bool:
        """Never."""
        return False

    def admitted(self, pool: Pool, now: float) -> Iterator[LiveNode]:
        """None."""
        return iter(())

    def kept(self, pool: Pool) -> list[LiveNode]:
        """None."""
        return []

    def next_chance(self, pool: Pool) -> float | None:
        """Never."""
        return None


class WorkingSet(Everybody):
    """As many runs as have room for their contexts, first come, first served.

    Runs that wait for a tool count for as long as the tool usually takes (ThunderAgent, arXiv:2602.13692, and
    Continuum, arXiv:2511.02230, hold programs back at the same places).
    """

    fill: ClassVar[float] = 0.95
    """Of the KV, that the contexts of admitted runs may be expected to take."""

    def __init__(self, residency: Residency) -> None:
        self._residency = residency
        self._idle = residency.idle = defaultdict[Pool, IdleRuns](IdleRuns)
        self._gates: dict[Pool, list[tuple[float, int, LiveNode]]] = {}
        self._tickets = 0
        self._overdue: dict[Pool, float | None] = {}  # when the next idle run loses its place

    def admits(self, live: LiveNode, pool: Pool, now: float) -> bool:
        """If its run has its place, or finds one and nobody waits for one."""
        if pool in live.run.places or not pool.kv_slots:
            return True
        gate = self._gates.setdefault(pool, [])
        if not gate and self._finds_place(live, pool, now):
            return True
        self._tickets += 1
        live.phase, live.ticket = QUEUED, self._tickets
        heapq.heappush(gate, (live.run.started, self._tickets, live))
        return False

    def holds_back(self, pool: Pool) -> bool:
        """If somebody found no place."""
        return bool(self._gates.get(pool))

    def admitted(self, pool: Pool, now: float) -> Iterator[LiveNode]:
        """As many as find a place, oldest run first."""
        gate = self._gates.get(pool)
        while gate:
            _, ticket, live = gate[0]
            waits = live.phase is QUEUED and live.ticket == ticket
            if waits and not (pool in live.run.places or self._finds_place(live, pool, now)):
                return
            heapq.heappop(gate)
            if waits:
                yield live

    def kept(self, pool: Pool) -> list[LiveNode]:
        """All that wait, oldest run first."""
        entries = sorted(self._gates.get(pool, ()), key=lambda entry: entry[:2])
        return [live for _, ticket, live in entries if live.phase is QUEUED and live.ticket == ticket]

    def next_chance(self, pool: Pool) -> float | None:
        """When the next idle run loses its place, if anybody waits for one."""
        return self._overdue.get(pool) if self.holds_back(pool) else None

    def _finds_place(self, live: LiveNode, pool: Pool, now: float) -> bool:
        need = self._residency.need(live)
        most = self.fill * pool.kv_slots
        lacking = pool.kv + need - most
        if pool.kv and lacking > 0:
            self._overdue[pool] = self._expire_overdue(pool, now, lacking)
            if pool.kv and pool.kv + need > most:
                return False
        live.run.places[pool] = need
        pool.kv += need
        return True

    def _expire_overdue(self, pool: Pool, now: float, tokens: float) -> float | None:
        """Free so many tokens of idle runs whose tools have taken too long.

        If that is not enough: when the next run is overdue, or None if none will be.
        """
        before, idle = pool.kv, self._idle[pool]
        while before - pool.kv < tokens:
            entry = idle.first()
            if entry is None:
                return None
            due, engine, run = entry
            expiry = engine.idle[run] + self._residency.patience.seconds(run.waits_for)
            if expiry > max(due, now):
                idle.postpone(expiry)
            elif due > now:
                return due
            else:
                self._residency.expire(run, engine)
        return now


class Growing(WorkingSet):
    """The same for runs that grow, and for half as much again as fits; whose graph is known never waits.

    Agents wait for tools for much of their time, so that more of them keep the engines busy than fit at once;
    of many more, none finds its context again.
    """

    fill = 1.5

    def admits(self, live: LiveNode, pool: Pool, now: float) -> bool:
        """If its run does not grow, or there is a place for it."""
        return not live.run.grows or super().admits(live, pool, now)


ADMISSION: Final[Mapping[str, Callable[[Residency], Admission]]] = {
    "everybody": Everybody,
    "growing": Growing,
    "working_set": WorkingSet,
}
