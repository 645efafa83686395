"""The primitives that wait for one kind of engine: tenants in turn, each tenant's in the batching order."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from itertools import count
from typing import Final

from .batching import Batching
from .fairness import Fairness, Tenant
from .priority import Priority
from .state import QUEUED, WAITING, LiveNode

__all__ = ["ReadyQueue"]

_SMALL: Final = 64  # entries that are not worth tidying


class ReadyQueue:
    """A queue of primitives. Those that leave it early are skipped when their turn comes.

    What has waited for `bound_s` has every other turn, so that no policy can starve anybody, and nobody who
    has much waiting holds up the others.
    """

    def __init__(
        self,
        batching: Callable[[], Batching],
        priority: Priority,
        fairness: Fairness,
        bound_s: float,
        tickets: Iterator[int] | None = None,
    ) -> None:
        """`tickets`: of other queues in which the same primitives may wait."""
        self._batching = batching
        self._priority = priority
        self._fairness = fairness
        self._bound_s = bound_s
        self._orders: dict[Tenant, Batching] = {}  # of those who wait
        self._turns: list[tuple[float, int, Tenant]] = []  # by virtual time, which may have passed since
        self._tickets = tickets or count(1)
        self._oldest: deque[tuple[float, int, LiveNode]] = deque()
        self._tidy_at = _SMALL
        self._jumped = False  # whether the last turn was that of who had waited too long

    def __bool__(self) -> bool:
        """Whether anything may wait."""
        return bool(self._turns)

    def push(self, live: LiveNode, now: float) -> None:
        """Queue a primitive."""
        live.phase = QUEUED
        live.ticket = next(self._tickets)
        live.rank = self._priority.rank(live)
        tenant = self._fairness.tenant(live.run.namespace)
        order = self._orders.get(tenant)
        if order is None:
            order = self._orders[tenant] = self._batching()
            self._fairness.wants(tenant)
            heapq.heappush(self._turns, (tenant.virtual_ms, live.ticket, tenant))
        order.push(live)
        self._oldest.append((now, live.ticket, live))
        if len(self._oldest) > self._tidy_at:
            self._oldest = deque(entry for entry in self._oldest if _waits(entry))
            self._tidy_at = 2 * len(self._oldest) + _SMALL

    def peek(self, now: float) -> LiveNode | None:
        """The primitive whose turn it is."""
        overdue = None if self._jumped else self._overdue(now)
        return self._due() if overdue is None else overdue

    def withdraw(self, first: LiveNode) -> None:
        """Take out what `peek` has shown, to wait elsewhere: nobody pays for it here."""
        self._jumped = first is not self._due()
        first.phase = WAITING

    def gate(self) -> ReadyQueue:
        """A queue for what may not wait here yet: of the same tenants, in the same order."""
        return ReadyQueue(self._batching, self._priority, self._fairness, self._bound_s, self._tickets)

    def _due(self) -> LiveNode | None:
        """The primitive whose turn it is by the policies."""
        turns = self._turns
        while turns:
            due, ticket, tenant = turns[0]
            if due != tenant.virtual_ms:
                heapq.heapreplace(turns, (tenant.virtual_ms, ticket, tenant))
                continue
            first = self._orders[tenant].peek()
            if first is not None:
                return first
            heapq.heappop(turns)
            del self._orders[tenant]
            self._fairness.rests(tenant)
        return None

    def batch(self, first: LiveNode, size: int, now: float) -> list[LiveNode]:
        """Take out what `peek` has shown, and up to `size` in all that may be computed with it."""
        order = self._order_of(first)
        taken: list[LiveNode] = []
        live: LiveNode | None = first
        self._jumped = first is not self._due()
        if size == 1 or self._jumped:
            first.phase = WAITING
            self._serve(first)
            taken.append(first)
            live = self.peek(now) if size > 1 and order.mixes else None
        while live is not None and len(taken) < size:
            order = self._order_of(live)
            more = order.batch(size - len(taken))
            for member in more:
                self._serve(member)
            taken += more
            live = self.peek(now) if order.mixes else None
        return taken

    def passed_by(self, live: LiveNode) -> None:
        """A primitive was served without having waited here: its tenant pays all the same."""
        self._serve(live)

    def _order_of(self, live: LiveNode) -> Batching:
        return self._orders[self._fairness.tenant(live.run.namespace)]

    def _serve(self, live: LiveNode) -> None:
        self._fairness.serve(self._fairness.tenant(live.run.namespace), live.primitive.forecast.ms)

    def waiting(self) -> list[LiveNode]:
        """All that wait, oldest first."""
        return [entry[2] for entry in self._oldest if _waits(entry)]

    def _overdue(self, now: float) -> LiveNode | None:
        oldest = self._oldest
        while oldest:
            if not _waits(oldest[0]):
                oldest.popleft()
            elif now - oldest[0][0] > self._bound_s:
                return oldest[0][2]
            else:
                return None
        return None


def _waits(entry: tuple[float, int, LiveNode]) -> bool:
    _, ticket, live = entry
    return live.phase is QUEUED and live.ticket == ticket
