"""What language models hold and are expected to hold: contexts, their lengths, and the KV that they need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from weft.graph.ir import Value

from .charges import Charge, Claim, even
from .directory import NOWHERE, Directory, Found
from .engines import EngineState, Pool
from .events import Usage
from .idle import IdleRuns
from .patience import Patience
from .prefixes import Block, Boundary, extend, start
from .state import DONE, SHELVED, Chain, Holding, LiveNode, LiveRun
from .transfer import Move, Transfer

__all__ = ["Demand", "Residency"]


class Demand(NamedTuple):
    """What a primitive that is ready asks of a language model, with what follows on it at once."""

    context: float  # tokens of the context that it continues
    reads: float  # tokens on top of it
    writes: float
    urgent: bool  # whether somebody waits for what is written
    home: EngineState | None  # that holds the context that it continues
    shared: float  # tokens of that context which others there begin with, too
    prefixes: Sequence[Boundary]  # of all that it reads, shortest first
    found: Found


class Residency:
    """Keeps the books of KV: of runs, of engines, and in the directory."""

    def __init__(self, transfer: Transfer) -> None:
        self.transfer = transfer
        self.directory = Directory()
        self.patience = Patience()
        self.idle: dict[Pool, IdleRuns] = {}  # where somebody has waited for their places

    def demand(self, live: LiveNode) -> Demand:
        """What a ready primitive asks for."""
        base, prefixes = _chain(live)
        maker = _maker(live)
        home = maker.engine if maker is not None and maker.engine and maker.engine.worker.alive else None
        reads, writes = _reads(live, live.chain), live.primitive.forecast.writes
        urgent = _is_urgent(live)
        for follower in _continuing(live):
            reads += follower.primitive.forecast.reads
            writes += follower.primitive.forecast.writes
            urgent = urgent or _is_urgent(follower)
        whole = (base, *prefixes) if base.tokens else prefixes
        found = live.found = self.directory.longest(whole) if whole else NOWHERE
        shared = 0.0 if maker is None else _shared(maker, base.tokens)
        return Demand(base.tokens, reads, writes, urgent, home, shared, whole, found)

    def cached(self, demand: Demand, engine: EngineState) -> float:
        """The tokens of a prompt that an engine holds, as far as is known."""
        if engine in demand.found.holders:
            return demand.found.tokens
        held = self.directory.held(engine, demand.prefixes) if demand.prefixes else 0.0
        return max(held, demand.context) if engine is demand.home else held

    def shared(self, demand: Demand, engine: EngineState) -> float:
        """The tokens of a context that a step of an engine reads for others as well, as far as is known."""
        if not engine.spec.shares_prefixes:
            return 0.0
        if engine is demand.home:
            shared = demand.shared
        else:
            in_use = engine.in_use
            shared = next((tokens for key, tokens in reversed(demand.prefixes) if key in in_use), 0.0)
        return min(shared, engine.context_tokens)

    def need(self, live: LiveNode) -> int:
        """The tokens of KV that a run is known to need on a kind of engine, from a ready primitive on.

        The beginning of its prompt that others are using takes its place once, and it has that already.
        """
        run, key = live.run, live.primitive.key
        base, prefixes = _chain(live)
        holders = self.directory.longest(prefixes).holders if prefixes else ()
        shared = [tokens for key, tokens in prefixes if any(key in holder.in_use for holder in holders)]
        known = (node.primitive for node in run.nodes.values() if node.phase not in (DONE, SHELVED))
        needed = base.tokens + sum(p.forecast.reads + p.forecast.writes for p in known if p.key == key)
        return max(int(needed - max(shared, default=0.0)), 0)

    # ---- turns

    def begin_turn(self, live: LiveNode) -> None:
        """A primitive wants a language model: its run is not idle where its context is."""
        if not live.turn:
            live.turn = True
            live.run.turns += 1
            maker = _maker(live)
            if maker is not None and maker.engine is not None:
                self._use(live.run, maker.engine)

    def end_turn(self, live: LiveNode, now: float) -> None:
        """It wants none any more."""
        if not live.turn:
            return
        live.turn = False
        run = live.run
        run.turns -= 1
        if run.turns:
            return
        for pool, reserved in run.places.items():
            pool.promise(-reserved)
            run.places[pool] = 0
        for engine, holding in run.holdings.items():
            if holding is not None and holding.used:
                holding.used = False
                if not holding.expired:
                    self._rest(run, engine, now)

    def _rest(self, run: LiveRun, engine: EngineState, now: float) -> None:
        engine.idle[run] = now
        if self.idle:
            for pool in engine.pools:
                if pool in self.idle:
                    self.idle[pool].add(engine, run, now)
                    pool.stir()  # whoever waits for a place may have one when this run's time is over

    def expire(self, run: LiveRun, engine: EngineState) -> None:
        """Reckon with what an engine holds for a run no longer: others may take its place."""
        holding = _holding(run, engine)
        holding.expired = True
        engine.idle.pop(run, None)
        for claim in holding.claims:
            engine.disclaim(claim)
        holding.claims.clear()
        if not run.turns:  # else it is at work on another engine
            for pool in engine.pools:
                self.leave(run, pool)

    def leave(self, run: LiveRun, pool: Pool) -> None:
        """A run has no place any more."""
        pool.promise(-run.places.pop(pool, 0))

    # ---- tasks

    def hand_out(self, live: LiveNode, engine: EngineState) -> None:
        """Reckon with a task on an engine."""
        self.begin_turn(live)
        self._use(live.run, engine)
        chain = _chain(live)
        base, prefixes = chain
        maker = _maker(live)
        before = maker.claim if maker is not None and maker.engine is engine else None
        held = known = base.tokens if before is not None else 0.0
        whole = (base, *prefixes) if base.tokens else prefixes
        if prefixes:
            known = max(held, self.directory.held(engine, whole))
        move = live.move = self._move(live, whole, engine, known)
        live.cached = known if move is None else move.tokens
        reads, writes = _reads(live, live.chain), live.primitive.forecast.writes
        live.tokens = base.tokens + reads + writes
        underway: Sequence[int] = ()
        if prefixes and engine.spec.kv_layout:
            underway = [key for key, tokens in whole if tokens > known]
        claimed = () if not prefixes else prefixes if before is not None else whole
        own = live.tokens - (claimed[-1].tokens if claimed else held)
        begun_alike = _shared(maker, base.tokens) if maker is not None and before is not None else 0.0
        live.claim = Claim(held, claimed, max(int(own), 1), before, live.run.grows)
        live.shared = max(begun_alike, self._hold(live.run, engine, live.claim))
        new = base.tokens + reads - live.cached
        engine.charge(live, _charge(engine, live, new, writes, underway))
        if prefixes:
            self.directory.note(engine, whole)

    def done(self, live: LiveNode, usage: Usage | None) -> None:
        """A task of a language model has given its result; it still counts on the engine that ran it."""
        engine = live.engine
        assert engine is not None
        if usage is not None:
            engine.written += usage.computed + usage.generated + usage.fetched
            if live.move is not None:
                self._moved(live.move, usage)
                live.move = None
            live.tokens = float(usage.cached + usage.computed + usage.generated)
            if usage.cached < live.cached / 2:
                base, prefixes = _chain(live)
                self.directory.missed(engine, (base, *prefixes), usage.cached)
        else:
            self._pass_on(live, engine)
        if not live.primitive.makes_context:
            self.drop(live)
            return
        live.prefix = Boundary(_end(_chain(live)).key, live.tokens)
        live.chain = None  # who continues it needs to know no more
        self.directory.note(engine, (live.prefix,))

    def known(self, live: LiveNode) -> None:
        """A context is known although no engine has made it: it is the prompt that it would have read."""
        live.prefix = _end(_chain(live))
        live.tokens = live.prefix.tokens

    def drop(self, live: LiveNode) -> None:
        """Nobody will take the context of a task any more, or the task was not done."""
        claim, live.claim = live.claim, None
        if claim is None or live.engine is None:
            return
        holding = live.run.holdings.get(live.engine)
        while claim is not None:
            claim.users -= 1
            if claim.users:
                return
            if holding is not None and claim in holding.claims:
                del holding.claims[claim]
                live.engine.disclaim(claim)
            claim = claim.continues

    def forget(self, run: LiveRun) -> None:
        """A run is over."""
        for pool in list(run.places):
            self.leave(run, pool)
        for engine, holding in run.holdings.items():
            if holding is None:
                continue
            engine.idle.pop(run, None)
            for claim in holding.claims:
                engine.disclaim(claim)
        run.holdings.clear()

    def _move(
        self, live: LiveNode, whole: Sequence[Boundary], engine: EngineState, cached: float
    ) -> Move | None:
        found, live.found = live.found, None
        if not whole or whole[-1].tokens <= cached or not engine.spec.kv_layout:
            return None
        return self.transfer.plan(found or self.directory.longest(whole), whole, engine, cached)

    def _moved(self, move: Move, usage: Usage) -> None:
        self.transfer.seen(move, usage)
        if usage.cached < move.tokens / 2:
            self.directory.missed(move.source, move.prefixes, usage.cached)

    def _use(self, run: LiveRun, engine: EngineState) -> None:
        engine.idle.pop(run, None)
        _holding(run, engine).used = True

    def _pass_on(self, live: LiveNode, engine: EngineState) -> None:
        """An engine that reports nothing for a prefill is going to compute it with what follows on it."""
        for follower in live.consumers:
            if follower.engine is engine and follower.charge and follower.primitive.context == live.number:
                engine.pass_on(live, follower)
                follower.move = live.move
                return

    def _hold(self, run: LiveRun, engine: EngineState, claim: Claim) -> float:
        """Count a claim of a run; the tokens of its beginning that others hold there."""
        holding = _holding(run, engine)
        holding.expired = False
        before = engine.kv
        if claim.continues is not None:
            claim.continues.users += 1
        on = claim.continues
        while on is not None and on not in holding.claims:  # what it continues had lost its place
            engine.claim(on)
            holding.claims[on] = None
            on = on.continues
        shared = engine.claim(claim)
        holding.claims[claim] = None
        for pool, reserved in run.places.items():
            if pool in engine.pools and reserved:
                taken = min(reserved, engine.kv - before)
                run.places[pool] = reserved - taken
                pool.promise(-taken)
        slots = engine.spec.kv_slots
        while slots and engine.kv > slots and engine.idle:
            self.expire(next(iter(engine.idle)), engine)
        return shared


def _holding(run: LiveRun, engine: EngineState) -> Holding:
    holding = run.holdings.get(engine)
    if holding is None:
        holding = run.holdings[engine] = Holding()
    return holding


def _is_urgent(live: LiveNode) -> bool:
    return live.primitive.forecast.objective.kind == "latency"


def _continuing(live: LiveNode) -> Iterator[LiveNode]:
    """What continues the context that a task makes and waits for nothing else, and what continues that."""
    makers = [live]
    while makers:
        maker = makers.pop()
        for follower in maker.consumers:
            if follower.primitive.context == maker.number and follower.waiting == 1:
                yield follower
                makers.append(follower)


def _maker(live: LiveNode) -> LiveNode | None:
    context = live.primitive.context
    return None if context is None else live.run.nodes[context]


def _chain(live: LiveNode) -> Chain:
    """What a node adds to the context that it continues, as far as texts are known."""
    if live.chain is not None:
        return live.chain
    unread = []
    maker = _maker(live)
    while maker is not None and maker.chain is None and maker.prefix is None and _only_reads(maker):
        unread.append(maker)
        maker = _maker(maker)
    for maker in reversed(unread):
        _tie(maker)
    return _tie(live)


def _tie(live: LiveNode) -> Chain:
    """The same, where that is known of what it continues, if it ever is before that has been made."""
    maker, run = _maker(live), live.run
    if maker is None:
        base = start(live.primitive.key.model, run.namespace)
    elif maker.prefix is not None:
        base = maker.prefix
    elif maker.chain is not None and _only_reads(maker):
        base = _end(maker.chain)
    else:
        return Chain(Boundary(0, maker.tokens), ())  # it is being written
    blocks: list[Block] = []
    for part in live.primitive.adds:
        content = run.contents.get(part) if isinstance(part, Value) else part
        if content is None:
            return Chain(base, ())
        blocks += content.blocks
    live.chain = Chain(base, extend(base, blocks))
    return live.chain


def _end(chain: Chain) -> Boundary:
    return chain.prefixes[-1] if chain.prefixes else chain.base


def _only_reads(maker: LiveNode) -> bool:
    return not maker.primitive.forecast.writes


def _reads(live: LiveNode, chain: Chain | None) -> float:
    """The tokens that a primitive reads: of its texts if they are known."""
    if chain is not None and chain.prefixes and not live.primitive.forecast.writes:
        return chain.prefixes[-1].tokens - chain.base.tokens
    return live.primitive.forecast.reads


def _shared(maker: LiveNode, tokens: float) -> float:
    """How much of a context of so many tokens others begin with: all, if one of them continues it."""
    return tokens if maker.claim is not None and maker.claim.users > 1 else maker.shared


def _charge(
    engine: EngineState, live: LiveNode, new: float, writes: float, underway: Sequence[int]
) -> Charge:
    load_ms = prefill_ms = even(engine.prefill_cost(live.tokens - new - writes, new))
    context = 0.0
    if writes:
        _, each, per_token = engine.writing
        context = even(live.tokens)
        own = context
        if engine.spec.shares_prefixes:
            own -= min(live.shared, engine.context_tokens)
        load_ms += even(writes * (each + per_token * own))
    if not (prefill_ms or live.move):
        underway = ()
    return Charge(load_ms, prefill_ms, writes, context, _is_urgent(live), underway, live.move)
