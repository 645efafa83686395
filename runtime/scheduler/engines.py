"""What the scheduler remembers of workers: their engines, and for each kind of work those that can do it."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from weft.graph.costs import DEFAULT_COSTS

from .charges import Charge, Claim
from .events import EngineSpec
from .primitive import EngineKey

if TYPE_CHECKING:
    from .state import LiveNode, LiveRun

__all__ = ["EngineState", "Pool", "WorkerState"]

_AHEAD_MS: Final = 25.0  # work handed out beyond the batch that is being computed, so that the next is there
_BACKLOG_MS: Final = 200.0  # of prompts to read, beyond which a model is given only what is bound to it
_SMALL: Final = 64  # entries that are not worth tidying
_USABLE: Final = 0.9  # of the slots of a cache, for what is not being computed with


@dataclass(eq=False, slots=True)
class EngineState:
    """An engine of a live worker."""

    spec: EngineSpec
    worker: WorkerState
    active: int = 0  # tasks handed out whose operands are all known
    load_ms: float = 0.0  # of the charges of tasks handed out
    prefill_ms: float = 0.0
    ahead_ms: float = 0.0  # of that, prompts some of whose texts it has yet to write
    arriving_ms: float = 0.0  # until KV that it gets from others has come
    lending_ms: float = 0.0  # of sending what others get from it
    writers: int = 0
    urgent: int = 0  # of them, those for whose tokens somebody waits
    context_tokens: float = 0.0
    kv: int = 0  # tokens that the runs it works for hold or are going to
    grown: int = 0  # of that, what runs that grow do
    free: int = 0  # tokens for which it has room besides
    written: float = 0.0  # tokens whose KV it has computed since it joined
    in_use: dict[int, list[int]] = field(default_factory=dict)  # by prefix: claims, of growing runs, tokens
    underway: dict[int, int] = field(default_factory=dict)  # tasks by a prefix that they are to read
    idle: dict[LiveRun, float] = field(default_factory=dict)  # that hold contexts here, and since when
    pools: tuple[Pool, ...] = ()
    room: float = float("inf")  # tokens that its cache keeps beside what it computes with; lost: none
    reading: tuple[float, float, float] = (0.0, 0.0, 0.0)  # the terms of `ModelCosts`
    writing: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        self.free = self.spec.kv_slots
        if self.spec.kv_slots:
            self.room = _USABLE * self.spec.kv_slots
        costs = self.spec.costs or DEFAULT_COSTS
        self.reading, self.writing = costs.prefill_terms, costs.decode_terms

    def prefill_cost(self, cached: float, new: float) -> float:
        """The milliseconds of reading `new` tokens behind `cached` ones."""
        a, b, c = self.reading
        return a + b * new + c * new * (cached + new / 2) if new > 0 else 0.0

    @property
    def refill_s(self) -> float:
        """The seconds of reading as much as its cache holds, in short prompts."""
        return self.reading[1] * self.spec.kv_slots / 1e3

    @property
    def step_tokens(self) -> float:
        """The tokens of contexts that each of its steps reads."""
        shared = self.spec.shares_prefixes and self.kv < self.context_tokens
        return self.kv if shared else self.context_tokens

    def charge(self, live: LiveNode, charge: Charge) -> None:
        """Reckon with a task."""
        live.charge = charge
        self._add_load(charge.load_ms)
        self._begin_reading(charge)
        if charge.prefill_ms or charge.writes:
            self.prefill_ms += charge.prefill_ms
            if live.waiting and live.primitive.context is None:
                live.ahead_ms = charge.prefill_ms
                self.ahead_ms += charge.prefill_ms
            if charge.writes:
                self.writers += 1
                self.urgent += charge.urgent
                self.context_tokens += charge.context

    def discharge(self, live: LiveNode) -> None:
        """Reckon with it no longer."""
        charge = live.charge
        if charge is None:
            return
        live.charge = None
        if live.ahead_ms:
            self.can_read(live)
        self._add_load(-charge.load_ms)
        self._end_reading(charge)
        if charge.prefill_ms or charge.writes:
            self.prefill_ms -= charge.prefill_ms
            if charge.writes:
                self.writers -= 1
                self.urgent -= charge.urgent
                self.context_tokens -= charge.context

    def can_read(self, live: LiveNode) -> None:
        """All texts of a task's prompt are known, or it is over."""
        self.ahead_ms -= live.ahead_ms
        live.ahead_ms = 0.0

    def has_read(self, live: LiveNode) -> None:
        """Reckon with the prompt of a task no longer; what is left of it is to write."""
        charge = live.charge
        if charge is not None and (charge.prefill_ms or charge.move):
            ms = charge.prefill_ms
            self._end_reading(charge)
            charge.load_ms -= ms
            charge.prefill_ms, charge.underway, charge.move = 0.0, (), None
            live.run.served_ms += ms
            self._add_load(-ms)
            self.prefill_ms -= ms
            self.changed()

    def changed(self) -> None:
        """Note a change."""
        for pool in self.pools:
            pool.touched[self] = None
            pool.stirred[pool] = None

    def pass_on(self, live: LiveNode, heir: LiveNode) -> None:
        """Reckon with what one task is to read on account of another."""
        charge, other = live.charge, heir.charge
        if charge is not None and other is not None:
            ms = charge.prefill_ms
            self._end_reading(other)
            other.load_ms += ms
            other.prefill_ms += ms
            other.underway = (*other.underway, *charge.underway)
            other.move = other.move or charge.move
            self._begin_reading(other)
            self._add_load(ms)
            self.prefill_ms += ms

    def keeps(self, key: int, used: float) -> bool:
        """Whether its cache still has a prefix, used when it had written `used` tokens, as far as is known.

        What runs hold it is reckoned to have, or to have soon, unless that is more than fits: then only what
        one of them has used lately.
        """
        slots = self.spec.kv_slots
        if key in self.in_use and (self.kv <= slots or self.written - used <= slots or not slots):
            return self.worker.alive
        # The one sum has shared tokens once for each that shares them, the other what may be evicted.
        locked = self.context_tokens if self.context_tokens < self.kv else self.kv
        return self.written - used <= self.room - locked

    def hold(self, tokens: int, grown: int) -> None:
        """Reckon with so many tokens of KV more. Only that there are fewer can make anything possible."""
        self.kv += tokens
        self.grown += grown
        room = self.spec.kv_slots - self.kv
        freed = -self.free if room < 0 else room - self.free
        self.free += freed
        for pool in self.pools:
            pool.free += freed
            pool.grown += grown
        if grown < 0 or tokens < 0:
            self.changed()

    def claim(self, claim: Claim) -> float:
        """Hold what a claim adds, prefixes once for all that begin with them.

        Returns the tokens of the longest prefix that is held already.
        """
        in_use, grows = self.in_use, claim.grows
        shared, new, before = 0.0, claim.own, claim.begin
        grown = new if grows else 0
        for key, tokens in claim.prefixes:
            use = in_use.get(key)
            if use is None:
                size = int(tokens) - int(before)
                use = in_use[key] = [0, 0, size]
                new += size
            else:
                shared = tokens
            use[0] += 1
            if grows:
                grown += 0 if use[1] else use[2]
                use[1] += 1
            before = tokens
        self.hold(new, grown)
        return shared

    def disclaim(self, claim: Claim) -> None:
        """Hold it no longer, but for what others begin with."""
        in_use, grows = self.in_use, claim.grows
        gone = claim.own
        grown = gone if grows else 0
        for key, _ in claim.prefixes:
            use = in_use[key]
            use[0] -= 1
            if grows:
                use[1] -= 1
                grown += 0 if use[1] else use[2]
            if not use[0]:
                gone += use[2]
                del in_use[key]
        self.hold(-gone, -grown)

    def activate(self, count: int) -> None:
        """Work on so many tasks more."""
        self.active += count
        for pool in self.pools:
            pool.active += count

    def _begin_reading(self, charge: Charge) -> None:
        underway, move = self.underway, charge.move
        for key in charge.underway:
            underway[key] = underway.get(key, 0) + 1
        if move is not None:
            self.arriving_ms += move.ms
            move.source.lending_ms += move.sending_ms

    def _end_reading(self, charge: Charge) -> None:
        underway, move = self.underway, charge.move
        for key in charge.underway:
            if underway[key] > 1:
                underway[key] -= 1
            else:
                del underway[key]
        if move is not None:
            self.arriving_ms -= move.ms
            move.source.lending_ms -= move.sending_ms

    def _add_load(self, ms: float) -> None:
        self.load_ms += ms
        for pool in self.pools:
            pool.load_ms += ms

    @property
    def has_room(self) -> bool:
        """Whether it should be given work that is not bound to it.

        An engine that computes batches gets the next one when the last is done or about to be: the longer a
        batch waits to be chosen, the better it can be chosen.
        """
        spec = self.spec
        if spec.batch and self.active and self.load_ms >= _AHEAD_MS:
            return False
        if self.prefill_ms - self.ahead_ms >= _BACKLOG_MS:
            return False
        return not spec.capacity or self.active < spec.capacity

    @property
    def batch_size(self) -> int:
        """How many primitives it takes at once: a batch, or one."""
        free = self.spec.capacity - self.active if self.spec.capacity else self.spec.batch
        return max(min(self.spec.batch, free), 1)


@dataclass(eq=False, slots=True)
class WorkerState:
    """One membership of a worker, from its joining to its loss; when it rejoins, it is another."""

    id: str
    number: int  # order of joining
    engines: tuple[EngineState, ...] = ()
    alive: bool = True
    tasks: dict[LiveNode, None] = field(default_factory=dict)

    def lose(self) -> None:
        """It is gone, with all that its engines hold."""
        self.alive = False
        for engine in self.engines:
            engine.room = float("-inf")

    def engine(self, key: EngineKey) -> EngineState | None:
        """Its engine for such primitives."""
        for engine in self.engines:
            if engine.spec.kind == key.kind and key.model in ("", engine.spec.model):
                return engine
        return None


Load = Callable[[EngineState], float]

_Entry = tuple[float, int, int, EngineState]  # load, number of the worker, and of the entry


class Pool:
    """The engines that can run the primitives of one key, indexed by `load`: no choice looks at all of them.

    An engine that changes enters itself into `touched`, and the pool into `stirred`.
    """

    def __init__(self, key: EngineKey, load: Load, stirred: dict[Pool, None]) -> None:
        self.key = key
        self._load = load
        self.stirred = stirred
        self._engines: dict[EngineState, None] = {}
        self.touched: dict[EngineState, None] = {}  # since the heap was last used
        self._heap: list[_Entry] = []  # no load is less than it says; entries may be stale
        self._valid: dict[EngineState, _Entry] = {}  # those that are not
        self._entries = 0
        self._turn: Iterator[EngineState] = iter(())
        self.load_ms = 0.0
        """Of all engines."""
        self.active = 0
        """Of all engines."""
        self.free = 0
        """Of all engines."""
        self.grown = 0
        """Of all engines."""
        self.promised = 0
        """Of runs that have a place, and on an engine nothing yet."""
        self.kv_slots = 0
        """Of all engines; 0: unknown."""

    @property
    def mean_load(self) -> float:
        """The expected work of an engine, in milliseconds."""
        return self.load_ms / max(len(self._engines), 1)

    @property
    def mean_active(self) -> float:
        """The primitives that an engine works on."""
        return self.active / max(len(self._engines), 1)

    def __len__(self) -> int:
        return len(self._engines)

    def __contains__(self, engine: EngineState) -> bool:
        return engine in self._engines

    def __iter__(self) -> Iterator[EngineState]:
        return iter(self._engines)

    def add(self, engine: EngineState) -> None:
        """An engine has come."""
        self._engines[engine] = None
        self._turn = iter(())
        engine.pools = (*engine.pools, self)
        self.load_ms += engine.load_ms
        self.active += engine.active
        self.free += engine.free
        self.grown += engine.grown
        self.kv_slots += engine.spec.kv_slots
        engine.changed()

    def remove(self, engine: EngineState) -> None:
        """An engine is gone."""
        del self._engines[engine]
        self.touched.pop(engine, None)
        self._valid.pop(engine, None)
        self._turn = iter(())
        engine.pools = tuple(pool for pool in engine.pools if pool is not self)
        self.load_ms -= engine.load_ms
        self.active -= engine.active
        self.free -= engine.free
        self.grown -= engine.grown
        self.kv_slots -= engine.spec.kv_slots

    def promise(self, tokens: int) -> None:
        """Reckon with so many tokens more that runs with a place are going to take, or fewer."""
        self.promised += tokens
        if tokens < 0:
            self.stir()

    def stir(self) -> None:
        """Something may have become possible that depends on no engine's load."""
        self.stirred[self] = None

    def least_loaded(self) -> EngineState | None:
        """The engine with room whose load is least; the longest-serving of several."""
        if len(self._engines) == 1:
            (only,) = self._engines
            return only if only.has_room else None
        self._index()
        heap, valid = self._heap, self._valid
        while heap:
            entry = heap[0]
            engine = entry[3]
            if valid.get(engine) is not entry:
                heapq.heappop(heap)
            elif not engine.has_room:
                heapq.heappop(heap)
                del valid[engine]  # until it changes
            elif self._load(engine) != entry[0]:
                heapq.heapreplace(heap, self._entry(engine))
            else:
                return engine
        return None

    def next_in_turn(self) -> EngineState | None:
        """The engine with room that follows on the last one that was taken in turn."""
        for _ in range(len(self._engines) + 1):
            engine = next(self._turn, None)
            if engine is None:
                self._turn = iter(list(self._engines))
            elif engine.has_room:
                return engine
        return None

    def _index(self) -> None:
        """Enter engines that have less to do than the heap says; one that has more, when its turn comes."""
        heap, valid = self._heap, self._valid
        for engine in self.touched:
            entry = valid.get(engine)
            if engine.has_room if entry is None else self._load(engine) < entry[0]:
                heapq.heappush(heap, self._entry(engine))
        self.touched.clear()
        if len(heap) > 2 * len(self._engines) + _SMALL:
            self._heap = list(valid.values())
            heapq.heapify(self._heap)

    def _entry(self, engine: EngineState) -> _Entry:
        self._entries += 1
        entry = self._valid[engine] = (self._load(engine), engine.worker.number, self._entries, engine)
        return entry
