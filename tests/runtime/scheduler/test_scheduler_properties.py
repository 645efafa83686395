"""The scheduler against a model world: random graphs, workers that come and go, failures, cancellations."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from weft.graph.analyses.forecast import Forecast
from weft.graph.analyses.objectives import LATENCY, THROUGHPUT
from weft.graph.costs import DecodePoint, ModelCosts, PrefillPoint
from weft.graph.ir import Node, Policy, Value
from weft.graph.ops.common import Embed, Format, Input
from weft.graph.ops.primitive import Decode, Prefill, Score
from weft.runtime.scheduler import events as ev
from weft.runtime.scheduler.admission import ADMISSION
from weft.runtime.scheduler.advice import ADVICE
from weft.runtime.scheduler.batching import BATCHING
from weft.runtime.scheduler.fairness import FAIRNESS
from weft.runtime.scheduler.placement import PLACEMENT
from weft.runtime.scheduler.policies import Policies
from weft.runtime.scheduler.prefixes import Content, FixedContent, blocks_of
from weft.runtime.scheduler.primitive import describe, engine_of
from weft.runtime.scheduler.priority import PRIORITY
from weft.runtime.scheduler.scheduler import Scheduler

from .world import ModelRun, ModelWorker, World, engines

LLM_KINDS = ("prefill", "decode", "prefill", "decode", "score")
KINDS = (*LLM_KINDS, "embed", "embed", "search", "tool", "client", "format", "map")


class Chaos:
    """Everything that can happen, in any order."""

    kv_slots = 3000  # of each language model

    def __init__(self, seed: int, **fixed: str) -> None:
        """`fixed`: policies that are not drawn."""
        self.choose = choose = random.Random(seed)
        drawn: dict[str, Any] = {
            "batching": choose.choice(sorted(BATCHING)),
            "priority": choose.choice(sorted(PRIORITY)),
            "fairness": choose.choice(sorted(FAIRNESS)),
            "placement": choose.choice(sorted(PLACEMENT)),
            "admission": choose.choice(sorted(ADMISSION)),
            "advice": choose.choice(sorted(ADVICE)),
        }
        self.world = World(Policies(**(drawn | fixed)))
        self.count = 0
        for name in ("w1", "w2"):
            self.join(name, choose.randint(1, 2))

    def play(self, steps: int) -> None:
        """A whole history, at the end of which nothing may be left."""
        for _ in range(steps):
            self.step()
        self.settle()
        self.check_that_nothing_is_left()
        self.check_that_it_can_be_repeated()

    def step(self) -> None:
        """Something happens."""
        steps = (
            self.start,
            self.grow,
            self.come,
            self.lose,
            self.fail,
            self.report_stale,
            self.cancel,
            self.wait,
            self.several,
        )
        weights = (3, 2, 1, 1, 2, 1, 1, 2, 3)
        happens = self.choose.choices((self.finish, *steps), (10, *weights))[0]
        happens()
        self.check_capacity()
        self.check_the_books_of_kv()

    # ---- what can happen

    def several(self) -> None:
        """Things happen that the scheduler sees together."""
        self.world.message = []
        for _ in range(self.choose.randint(2, 5)):
            self.choose.choice((self.finish, self.finish, self.fail, self.grow))()
        if self.choose.random() < 0.3:
            self.cancel()
        self.world.flush()

    def start(self) -> None:
        self.count += 1
        run, world, choose = f"r{self.count}", self.world, self.choose
        grows = choose.random() < 0.5
        world.runs[run] = ModelRun(grows)
        given = Node(0, Input("x"))
        world.runs[run].nodes[0] = given
        nodes = (given, *self.nodes(run))
        world.send(ev.RunStarted(run, choose.randint(-1, 1), grows, choose.choice("ab")))
        world.send(ev.NodesAdded(run, describe(nodes, self.forecasts(nodes)), self.known(run, nodes[1:])))
        world.runs[run].done.add(0)
        world.send(ev.ValuesKnown(run, {Value(0): None}))

    def grow(self) -> None:
        growing = [name for name, run in self.world.runs.items() if run.grows and not run.over]
        if growing:
            run = self.choose.choice(growing)
            nodes = self.nodes(run)
            self.world.send(
                ev.NodesAdded(run, describe(nodes, self.forecasts(nodes)), self.known(run, nodes))
            )

    def come(self) -> None:
        absent = [name for name in ("w1", "w2", "w3") if name not in self.world.workers]
        if absent:
            self.join(
                self.choose.choice(absent), self.choose.randint(0, 2), self.choose.choice(("ab", "a", "b"))
            )

    def join(self, name: str, capacity: int, models: str = "ab") -> None:
        offers = engines(capacity, models, self.choose.randint(0, 3), self.kv_slots)
        self.world.workers[name] = ModelWorker(offers)
        self.world.send(ev.WorkerJoined(name, self.world.workers[name].offers))

    def lose(self) -> None:
        if self.world.workers:
            self.world.lose(self.choose.choice(sorted(self.world.workers)))

    def finish(self) -> None:
        for _ in range(self.choose.randint(1, 5)):
            if self.world.startable():
                self.world.finish(*self.choose.choice(self.world.startable()))

    def fail(self) -> None:
        if self.world.startable():
            self.world.fail(*self.choose.choice(self.world.startable()), self.choose.random() < 0.75)

    def report_stale(self) -> None:
        if self.world.outstanding:
            run, node = self.choose.choice(sorted(self.world.outstanding))
            stale = self.world.outstanding[run, node][0] - 1
            before = len(self.world.history)
            self.world.send(ev.TaskDone(run, node, stale))
            assert self.world.history[before][2] == []

    def cancel(self) -> None:
        alive = [name for name, run in self.world.runs.items() if not run.over]
        if alive:
            self.world.end(self.choose.choice(alive))

    def wait(self) -> None:
        until = self.world.now + self.choose.choice((0.1, 1.0, 5.0))
        while self.world.wake <= until:
            self.world.now, self.world.wake = self.world.wake, float("inf")
            self.world.send(ev.Tick())
        self.world.now = until

    # ---- new nodes

    def nodes(self, run: str) -> tuple[Node, ...]:
        live = self.world.runs[run]
        made: list[Node] = []
        for _ in range(self.choose.randint(4, 14)):
            made.append(self.node([*live.nodes.values(), *made]))
        live.nodes |= {node.id: node for node in made}
        return tuple(made)

    def node(self, before: list[Node]) -> Node:
        choose = self.choose
        kind, model = choose.choice(KINDS), choose.choice("aab")
        contexts = [
            n for n in before if isinstance(n.op, (Prefill, Decode)) and engine_of(n.op).model == model
        ]
        others = choose.sample(before, min(len(before), choose.randint(0, 2)))
        args = {f"x{index}": Value(node.id, 1) for index, node in enumerate(others)}
        if kind in ("prefill", "decode", "score"):
            if contexts:
                args["kv"] = Value(choose.choice(contexts).id)
            elif kind != "prefill":
                kind = "prefill"
            if kind != "prefill":
                args = {"kv": args["kv"]}
        timeout_s = choose.choice((None, None, 3.0)) if kind not in ("format", "map") else None
        return self.world.make(kind, args, Policy(timeout_s, choose.choice((3, 3, 3, 1)), 0.5), model)

    def known(self, run: str, nodes: Iterable[Node]) -> dict[Value, Content | None]:
        """New nodes whose results are those of earlier work."""
        kinds = (Prefill, Decode, Score, Embed, Format)
        found = [n.id for n in nodes if isinstance(n.op, kinds) and self.choose.random() < 0.1]
        self.world.runs[run].done.update(found)
        written = FixedContent(blocks_of(run))
        return {Value(node, output): (None, written)[output] for node in found for output in (0, 1)}

    def forecasts(self, nodes: Iterable[Node]) -> dict[int, Forecast]:
        choose = self.choose
        return {
            node.id: Forecast(
                choose.uniform(0, 300),
                choose.choice((0.0, 100.0, 900.0)),
                choose.uniform(0, 900),
                choose.uniform(0, 90) if isinstance(node.op, Decode) else 0.0,
                choose.choice((LATENCY, THROUGHPUT)),
            )
            for node in nodes
            if choose.random() < 0.8
        }

    # ---- what must hold

    def check_capacity(self) -> None:
        """Of what nothing binds, no engine is given more than it can do."""
        for name, worker in self.world.workers.items():
            tasks = [key for key, (_, where) in self.world.outstanding.items() if where == name]
            for spec in worker.offers:
                if spec.capacity and spec.kind != "llm":
                    free = [task for task in tasks if task not in self.world.bound]
                    nodes = [self.world.runs[run].nodes[node] for run, node in free]
                    assert sum(engine_of(n.op).kind == spec.kind for n in nodes) <= spec.capacity

    def check_the_books_of_kv(self) -> None:
        """Each engine holds the prefixes that its runs begin with once, and what they have beyond them."""
        dispatcher = self.world.scheduler._dispatcher
        for engine in (engine for worker in dispatcher.workers.values() for engine in worker.engines):
            holdings = [run.holdings.get(engine) for run in self.world.scheduler._runs.values()]
            claims = [claim for h in holdings if h is not None and not h.expired for claim in h.claims]
            claimed = Counter(key for claim in claims for key, _ in claim.prefixes)
            assert {key: users for key, (users, _, _) in engine.in_use.items()} == claimed
            shared = sum(size for _, _, size in engine.in_use.values())
            assert engine.kv == shared + sum(claim.own for claim in claims)
            growing = [claim for claim in claims if claim.grows]
            begun = {key for claim in growing for key, _ in claim.prefixes}
            shared = sum(size for key, (_, _, size) in engine.in_use.items() if key in begun)
            assert engine.grown == shared + sum(claim.own for claim in growing)
        for pool in dispatcher._pools.values():
            assert pool.free == sum(max(engine.spec.kv_slots - engine.kv, 0) for engine in pool)
            assert pool.grown == sum(engine.grown for engine in pool)
            runs = self.world.scheduler._runs.values()
            assert pool.promised == sum(run.places.get(pool, 0) for run in runs)
        for run in self.world.scheduler._runs.values():
            made = [live.claim for live in run.nodes.values() if live.claim is not None]
            held = {*made}
            for claim in made:
                on = claim.continues
                while on is not None:
                    held.add(on)
                    on = on.continues
            users = Counter([*made, *(claim.continues for claim in held)])
            assert all(claim.users == users[claim] for claim in held)
            for holding in filter(None, run.holdings.values()):
                assert holding.claims.keys() <= held, "what nobody uses is not held"

    def settle(self) -> None:
        """With a worker for everything, every run ends."""
        self.world.workers["rescue"] = ModelWorker(engines(2, kv_slots=self.kv_slots))
        self.world.send(ev.WorkerJoined("rescue", self.world.workers["rescue"].offers))
        for _ in range(10_000):
            if self.world.startable():
                self.world.finish(*self.world.startable()[0])
            elif self.world.wake < float("inf"):
                self.world.now = max(self.world.now, self.world.wake)
                self.world.wake = float("inf")
                self.world.send(ev.Tick())
            else:
                break
        assert not self.world.outstanding
        for run in self.world.runs.values():
            assert run.over or run.done == set(run.nodes), "a run never finished"

    def check_that_nothing_is_left(self) -> None:
        """Once all runs are over, the books of every engine are empty."""
        for name in self.world.runs:
            self.world.send(ev.RunEnded(name))
        for worker in self.world.scheduler._dispatcher.workers.values():
            assert not worker.tasks
            for engine in worker.engines:
                assert (engine.active, engine.writers, engine.in_use, engine.idle) == (0, 0, {}, {})
                assert engine.underway == {}
                books = (engine.load_ms, engine.prefill_ms, engine.context_tokens)
                exchanged = (engine.arriving_ms, engine.lending_ms)
                assert (*books, engine.ahead_ms, *exchanged) == (0,) * 6
                assert (engine.kv, engine.grown) == (0, 0)
        for pool in self.world.scheduler._dispatcher._pools.values():
            assert (pool.load_ms, pool.active) == (0, 0)
            assert (pool.free, pool.grown, pool.promised) == (pool.kv_slots, 0, 0)

    def check_that_it_can_be_repeated(self) -> None:
        """The same events at the same times give the same actions."""
        replayed = Scheduler(self.world.policies)
        for events, now, actions in self.world.history:
            assert replayed.handle(*events, now=now) == actions


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32))
@example(seed=173882)  # whoever is taken back from a lost worker has ended its turn there
def test_any_history(seed: int) -> None:
    Chaos(seed).play(70)


INSTANT = ModelCosts((PrefillPoint(1, 0, 1e-9),), (DecodePoint(1, 1, 1e-9),))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_where_there_is_room_it_does_not_matter_whether_events_come_together(seed: int) -> None:
    """On one worker that takes all, the same can run after each message, seen whole or event by event.

    What is handed out besides, and waits for others, may differ: other fragments are made of what is ready.
    """
    together, one_by_one = (Chaos(seed) for _ in range(2))
    for chaos in (together, one_by_one):
        chaos.lose()
        chaos.lose()
        chaos.world.scheduler = Scheduler(replace(chaos.world.policies, admission="everybody"))
        offers = tuple(replace(spec, costs=INSTANT, kv_slots=0) for spec in engines(0))
        chaos.world.workers["all"] = ModelWorker(offers)
        chaos.world.send(ev.WorkerJoined("all", offers))
    for _ in range(12):
        for chaos in (together, one_by_one):
            finished = sorted(chaos.world.startable())
            chaos.world.message = [] if chaos is together else None
            for task in finished:
                chaos.world.finish(*task)
            chaos.start()
            chaos.world.flush()
        assert sorted(together.world.startable()) == sorted(one_by_one.world.startable())
