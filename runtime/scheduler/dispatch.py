"""From ready primitives to fragments on workers: queues, pools, and the choices between them."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Final, NamedTuple

from weft.graph.costs import DEFAULT_COSTS

from .actions import Dispatch, Fragment, Source
from .charges import Charge, even
from .engines import EngineState, Pool, WorkerState
from .events import EngineSpec, WorkerJoined
from .fragments import begins_context, fragment
from .policies import Policies, Toolbox
from .primitive import EngineKey
from .queues import ReadyQueue
from .residency import Residency
from .state import LiveNode
from .timers import Timers
from .transfer import TRANSFER, Move

__all__ = ["Backlog", "Dispatcher", "Timer"]

_REMEMBERED_LOSSES: Final = 32
_IDLE: Final = 0.25  # of what an engine does efficiently at a time
_PATIENCE: Final = 10.0  # times what is expected; who is not reading what is wanted answers at once anyway

Timer = tuple[LiveNode, int] | EngineKey
"""What comes due: an attempt's back-off or timeout, or the patience of a queue without workers."""


class Backlog(NamedTuple):
    """The ready primitives that no engine has been given."""

    key: EngineKey
    queued: int
    held: int  # besides: those that admission keeps back


class Dispatcher:
    """Ready primitives in, fragments out."""

    def __init__(self, policies: Policies, timers: Timers[Timer]) -> None:
        self.workers: dict[str, WorkerState] = {}
        self.residency = Residency(TRANSFER[policies.transfer](policies.link_mb_s * 1e3))
        self._tools = Toolbox(policies, self.residency)
        self.advice = self._tools.advice
        self._timers = timers
        self._grace_s = policies.grace_s
        self._joined = 0
        self._lost: deque[tuple[WorkerState, str]] = deque(maxlen=_REMEMBERED_LOSSES)
        self._pools: dict[EngineKey, Pool] = {}
        self._queues: dict[Pool, ReadyQueue] = {}
        self._gates: dict[Pool, ReadyQueue] = {}  # of what waits for a place for its run's context
        self._stirred: dict[Pool, None] = {}  # where something may have become possible
        self._orphaned: dict[EngineKey, float] = {}  # queues without workers, and how long they may be
        self._outgoing: dict[WorkerState, list[Fragment]] = {}
        self._sources: dict[WorkerState, list[Source]] = {}  # of what is outgoing

    # ---- workers

    def join(self, event: WorkerJoined) -> None:
        """A worker can be given work."""
        self._joined += 1
        worker = WorkerState(event.worker, self._joined)
        worker.engines = tuple(EngineState(_shared(spec), worker) for spec in event.engines)
        self.workers[worker.id] = worker
        for key, pool in self._pools.items():
            engine = worker.engine(key)
            if engine is not None:
                pool.add(engine)
                self._orphaned.pop(key, None)

    def lose(self, worker: WorkerState, reason: str) -> None:
        """A worker is gone; what it was doing is the caller's concern."""
        del self.workers[worker.id]
        worker.lose()
        self._lost.append((worker, reason))
        self.advice.lose(worker)
        for engine in worker.engines:
            for run in list(engine.idle):
                self.residency.expire(run, engine)
            for pool in engine.pools:
                pool.remove(engine)
                self._stirred[pool] = None

    # ---- primitives

    def submit(self, live: LiveNode, now: float) -> None:
        """A primitive for an engine is ready."""
        key = live.primitive.key
        pool = self._pools.get(key)
        if pool is None:
            pool = self._open(key)
        self._stirred[pool] = None
        if key.kind == "llm":
            if self._tools.admission.holds_back(live, pool):
                self._gates[pool].push(live, now)
                return
            self.residency.begin_turn(live)
        elif key.kind == "tool":
            self.call(live, now)
        self._queues[pool].push(live, now)

    def attach(self, live: LiveNode, engine: EngineState, now: float) -> None:
        """Let a primitive follow on what an engine is making, unless it should go elsewhere or wait."""
        if begins_context(live):
            if self._begins(engine, live.key):
                self._hand_out(live, engine, now)
        elif self._tools.placement.follows(engine):
            self._hand_out(live, engine, now)

    def call(self, live: LiveNode, now: float) -> None:
        """A run waits for a tool from now on."""
        live.run.waits_for = live.primitive.key.model
        self.advice.called(live, now)

    def drain(self, now: float) -> Sequence[Dispatch]:
        """Hand out what can be handed out now."""
        stirred, gates = self._stirred, self._gates
        while stirred:
            pool = next(iter(stirred))
            del stirred[pool]
            queue, gate = self._queues[pool], gates.get(pool)
            if queue or gate:
                self._drain(queue, gate, pool, now)
        return self.dispatches(now) if self._outgoing else ()

    def dispatches(self, now: float) -> Sequence[Dispatch]:
        """What has been handed out and has not been said yet."""
        said = [
            Dispatch(
                worker.id,
                tuple(fragments),
                tuple(self._sources.pop(worker, ())),
                self.advice.collect(worker, now),
            )
            for worker, fragments in self._outgoing.items()
        ]
        self._outgoing.clear()
        return said

    def activate(self, live: LiveNode, now: float) -> None:
        """All operands of a task are known: from now on the attempt's time counts."""
        live.activate()
        live.since = now
        timeout_s = live.primitive.node.policy.timeout_s
        if timeout_s is not None:
            self._timers.set(now + timeout_s, (live, live.attempt))

    def head_start(self, live: LiveNode, now: float) -> float:
        """The seconds that a primitive counts as having waited when an engine is given it now."""
        return self._tools.head_start(live, now)

    def answered(self, live: LiveNode, now: float) -> None:
        """A tool has given its result."""
        self.residency.patience.note(live.primitive.key.model, now - live.since)

    def _open(self, key: EngineKey) -> Pool:
        pool = self._pools[key] = self._tools.pool(key, self._stirred)
        queue = self._queues[pool] = self._tools.queue()
        if key.kind == "llm":
            self._gates[pool] = queue.gate()
        for worker in self.workers.values():
            engine = worker.engine(key)
            if engine is not None:
                pool.add(engine)
        return pool

    def _drain(self, queue: ReadyQueue, gate: ReadyQueue | None, pool: Pool, now: float) -> None:
        if not len(pool):
            if queue.peek(now) or (gate and gate.peek(now)):
                self._orphan(pool.key, now)
            return
        self._empty(queue, pool, now)
        while gate and self._let_in(gate, queue, pool, now):
            self._empty(queue, pool, now)  # so that its tenant has paid before the next is chosen

    def _empty(self, queue: ReadyQueue, pool: Pool, now: float) -> None:
        choose = self._tools.placement.choose
        live = queue.peek(now)
        while live is not None:
            engine = choose(live, pool)
            if engine is None:
                live.found = None  # by then it will be another
                return
            for member in queue.batch(live, engine.batch_size, now):
                self._hand_out(member, engine, now)
            live = queue.peek(now)

    def _let_in(self, gate: ReadyQueue, queue: ReadyQueue, pool: Pool, now: float) -> bool:
        """Queue the next of those held back, if there is a place for its run."""
        live, admission = gate.peek(now), self._tools.admission
        if live is None:
            return False
        if not admission.finds_place(live, pool, now):
            chance = admission.next_chance(pool)
            if chance is not None:
                self._timers.set(chance, pool.key)
            return False
        gate.withdraw(live)
        self.residency.begin_turn(live)
        queue.push(live, now)
        return True

    def _hand_out(self, root: LiveNode, engine: EngineState, now: float) -> None:
        tasks = []
        follows = self._tools.placement.follows
        for live, where in fragment(root, engine, follows, partial(self._begins, key=root.key)):
            live.begin(where)
            if live.primitive.key.kind == "llm":
                if live.waiting and begins_context(live):
                    self._queues[self._pools[live.key]].passed_by(live)
                self.residency.hand_out(live, where)
                self.advice.taken(live)
                if live.move is not None:
                    self._fetch(live, live.move, where)
            else:
                where.charge(live, Charge(even(where.spec.item_ms or live.primitive.forecast.ms)))
            tasks.append((live.number, live.attempt))
            if live.waiting == 0:
                self.activate(live, now)
            else:
                where.changed()
        fragments = self._outgoing.setdefault(engine.worker, [])
        fragments.append(Fragment(root.run.id, tuple(tasks)))

    def _begins(self, engine: EngineState, key: EngineKey) -> bool:
        """Whether an engine may be given a prompt before its texts are known.

        If no other engine could be chosen, and it would not have to queue: then nothing is lost by not
        waiting for the choice, and the answer is spared the way there and back.
        """
        return len(self._pools[key]) == 1 and engine.has_room

    def _fetch(self, live: LiveNode, move: Move, engine: EngineState) -> None:
        source = move.source.worker.id
        wait_s = _PATIENCE * move.patience_ms / 1000
        sources = self._sources.setdefault(engine.worker, [])
        sources.append(Source(live.run.id, live.number, source, wait_s))

    # ---- queues without workers

    def _orphan(self, key: EngineKey, now: float) -> None:
        if key not in self._orphaned:
            self._orphaned[key] = now + self._grace_s
            self._timers.set(self._orphaned[key], key)

    def abandoned(self, key: EngineKey, now: float) -> list[LiveNode]:
        """What waits for a worker although patience is at an end: nobody came."""
        pool = self._pools[key]
        self._stirred[pool] = None
        if self._orphaned.get(key, now + 1) > now:
            return []
        del self._orphaned[key]
        gate = self._gates.get(pool)
        return [*(gate.waiting() if gate else ()), *self._queues[pool].waiting()]

    def backlogs(self) -> list[Backlog]:
        """What waits, by what it waits for; looks at all of it."""
        held = {pool: len(gate.waiting()) for pool, gate in self._gates.items()}
        queues = self._queues.items()
        return [Backlog(pool.key, len(queue.waiting()), held.get(pool, 0)) for pool, queue in queues]

    def idle(self, kind: str, run: str) -> bool:
        """Whether nothing waits for the engines of a kind, and other runs leave most of each to this one."""
        if any(self._queues[pool] for key, pool in self._pools.items() if key.kind == kind):
            return False
        for worker in self.workers.values():
            others = Counter(live.engine for live in worker.tasks if live.run.id != run)
            if any(others[e] > _IDLE * _efficient(e) for e in worker.engines if e.spec.kind == kind):
                return False
        return True

    def last_lost(self, key: EngineKey) -> tuple[str, str] | None:
        """The worker with such an engine that was lost last, and how."""
        lost = reversed(self._lost)
        return next(((worker.id, reason) for worker, reason in lost if worker.engine(key)), None)


@lru_cache(1024)
def _shared(spec: EngineSpec) -> EngineSpec:
    """The one spec of engines that are alike: a choice that looks at several looks at it once."""
    return spec


def _efficient(engine: EngineState) -> int:
    costs = engine.spec.costs
    return costs.efficient_batch if costs is not None else DEFAULT_COSTS.efficient_batch
