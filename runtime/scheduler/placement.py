"""Placement policies: which engine a primitive goes to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from .engines import EngineState, Pool
from .residency import Demand, Residency
from .state import LiveNode

__all__ = ["PLACEMENT", "Affinity", "LeastLoaded", "Placement", "RoundRobin", "Sticky"]

_OVERLOAD: Final = 2.0  # times the mean load: more than that at home drives work away
_SLACK_MS: Final = 200.0  # of load beyond that, which is not worth a change of place
_OTHERS: Final = 0.3  # a second of somebody else's, in one's own
_URGENT: Final = 1.0  # the same where somebody waits for the other's tokens, and nobody for one's own


class Placement(Protocol):
    """The choice of an engine."""

    def load(self, engine: EngineState) -> float:
        """By what pools index their engines."""
        ...

    def choose(self, live: LiveNode, pool: Pool) -> EngineState | None:
        """The engine for a primitive whose operands are known; None: it must wait."""
        ...

    def follows(self, engine: EngineState) -> bool:
        """Whether what continues a context that an engine is making goes there at once."""
        ...


class RoundRobin:
    """One engine after the other."""

    def __init__(self, residency: Residency) -> None:
        pass

    def load(self, engine: EngineState) -> float:
        """It does not matter."""
        return 0.0

    def choose(self, live: LiveNode, pool: Pool) -> EngineState | None:
        """The next with room."""
        return pool.next_in_turn()

    def follows(self, engine: EngineState) -> bool:
        """Always: the context is nowhere else."""
        return True


class LeastLoaded(RoundRobin):
    """The engine that works on the fewest primitives."""

    def load(self, engine: EngineState) -> float:
        """The primitives that it works on."""
        return engine.active

    def choose(self, live: LiveNode, pool: Pool) -> EngineState | None:
        """The least loaded with room."""
        return pool.least_loaded()


class Sticky(LeastLoaded):
    """A run stays on the engine that it began on, unless that has more than twice the mean load.

    What routers can do who know sessions but no programs.
    """

    def choose(self, live: LiveNode, pool: Pool) -> EngineState | None:
        """The run's last engine, or the least loaded."""
        for engine, holding in reversed(live.run.holdings.items()):
            if holding is not None and engine in pool and engine.worker.alive:
                if engine.active <= _OVERLOAD * max(pool.mean_active, 1.0):
                    return engine
                break
        return pool.least_loaded()


class Affinity(RoundRobin):
    """Where a primitive is expected to cost least time: its own, and that of those whom it delays.

    It is cheap to read on where the beginning of a prompt has been read. It is dear to wait there behind
    others, to write in a large batch, and to make many wait for a long prompt. Bulk work counts the time of
    those for whose tokens somebody waits like its own, and so keeps away from engines that serve them: what
    Parrot's caps on the tokens of such engines are for (OSDI'24, section 5.3), but engines need not idle for
    it. If it counted more, bulk work would crowd where nobody waits, and end later. The candidates are the
    engine that holds the context, some that hold the longest prefix, and the least loaded one.
    """

    def __init__(self, residency: Residency) -> None:
        self._residency = residency

    def load(self, engine: EngineState) -> float:
        """The expected work; each task costs a little, whatever it is."""
        return engine.load_ms + engine.active

    def choose(self, live: LiveNode, pool: Pool) -> EngineState | None:
        """The cheapest. An engine that holds something of the prompt need not have room.

        If no engine has, a primitive waits rather than queue where others are expected to be done earlier. If
        there is but one engine, a prompt always waits: there, nobody more urgent could go before it.
        """
        spare = pool.least_loaded()
        if live.primitive.key.kind != "llm" or (len(pool) == 1 and spare is not None):
            return spare
        if spare is None and len(pool) == 1 and live.primitive.context is None:
            return None
        demand = self._residency.demand(live)
        best, least = None, float("inf")
        for engine in dict.fromkeys((demand.home, spare, *demand.found.holders)):
            if engine is not None and pool in engine.pools:
                cost = self._cost(demand, engine)
                if cost < least:
                    best, least = engine, cost
        if spare is None and best is not None and self._is_better_elsewhere(demand, best, pool):
            return None
        return best

    def _is_better_elsewhere(self, demand: Demand, engine: EngineState, pool: Pool) -> bool:
        cached = self._residency.cached(demand, engine)
        tokens = demand.context + demand.reads
        here = engine.load_ms + engine.prefill_cost(cached, tokens - cached)
        return pool.mean_load + engine.prefill_cost(0.0, tokens) < here

    def follows(self, engine: EngineState) -> bool:
        """Unless it has much more to do than others."""
        return all(engine.load_ms <= _OVERLOAD * pool.mean_load + _SLACK_MS for pool in engine.pools)

    def _cost(self, demand: Demand, engine: EngineState) -> float:
        held = cached = self._residency.cached(demand, engine)
        move = self._residency.transfer.plan(demand.found, demand.prefixes, engine, cached)
        if move is not None:
            cached, arriving = move.tokens, move.ms
        else:
            arriving = engine.arriving_ms if demand.found.key in engine.underway else 0.0
        reading = engine.prefill_cost(cached, demand.context + demand.reads - cached)
        a, each, per_token = engine.writing
        tokens = demand.context + demand.reads + demand.writes
        own = tokens - self._residency.shared(demand, engine)
        step = a + each * (engine.writers + 1) + per_token * (engine.step_tokens + own)
        mine = engine.prefill_ms + arriving + reading + demand.writes * step
        delay = reading + demand.writes * (each + per_token * own)
        others = _OTHERS * engine.writers
        if not demand.urgent:
            others += (_URGENT - _OTHERS) * engine.urgent
        return mine + others * delay + self._crowding(demand, engine, held)

    def _crowding(self, demand: Demand, engine: EngineState, cached: float) -> float:
        """What others will have to read again because this takes their place."""
        slots = engine.spec.kv_slots
        more = demand.context + demand.reads + demand.writes - cached
        over = min(engine.kv + more - slots, more) if slots else 0.0
        return engine.prefill_cost(0.0, over) if over > 0 else 0.0


PLACEMENT: Final[Mapping[str, Callable[[Residency], Placement]]] = {
    "round_robin": RoundRobin,
    "least_loaded": LeastLoaded,
    "sticky": Sticky,
    "affinity": Affinity,
}
