"""What it is worth to know when tools end: agents whose tools pause, over less KV than their contexts need.

The engine's planner, cache and restores as they are, on a virtual clock: steps take what the profile of
Llama-3.1-8B on an H200 says, copies from and to the host, one after another, what `--gb-s` says. A worker is
told of its agents what the scheduler would tell it, from the times that the tools have taken so far. Arms:

- `liveness`: for how long a context is going to be wanted.
- `next_use`: when at the earliest, too: till then it goes first, then it comes back from the host.
- `order`: the same without coming back ahead: only the order in which contexts go is another.
- `free`: `liveness` with copies that take no time: more than that no prefetching can save.

A turn lasts from the end of a tool to the end of the text. Run: ``weft bench prefetch``.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from statistics import fmean, quantiles
from typing import Any, Final, NamedTuple

import numpy as np

from weft.runtime.kv.advice import Dead, Pin
from weft.runtime.kv.cache import KVCache
from weft.runtime.kv.radix import Tokens
from weft.runtime.llm.limits import Limits
from weft.runtime.llm.planner import Planner, StepPlan
from weft.runtime.llm.sequence import Job
from weft.runtime.llm.sequence import Sequence as Ids
from weft.runtime.llm.step_cost import StepCost
from weft.runtime.scheduler.patience import Patience
from weft.runtime.simulator.clock import Clock
from weft.runtime.simulator.profiles import LLAMA_8B_H200 as LLAMA
from weft.runtime.simulator.workloads import TOOLS, Latency

ARMS: Final = ("liveness", "order", "next_use", "free")
HEAD: Final = 1000  # tokens that all agents begin with
VOCABULARY: Final = 100_000
POLL_S: Final = 1e-4


class Agents(NamedTuple):
    """Agents that begin within some seconds of each other, and one after another in each place."""

    tools: Sequence[tuple[str, int]]  # names, with weights
    places: int
    kv_tokens: int  # for which the device has room
    prompt: tuple[int, int]  # tokens
    output: tuple[int, int]
    seen: int = 500  # tokens that a tool gives, in the mean
    turns: int = 12  # in the mean
    each: int = 1  # agents in each place, one after the other
    calls_per_s: float = 0.0  # of single calls of 2,000 to 6,000 tokens that come beside


LATENCIES: Final = {**TOOLS, "build": Latency(15_000, 40_000, 60_000)}
LONG: Final = (25_000, 40_000)
CODE: Final = (("code", 45), ("file", 40), ("web", 10), ("db", 5))
WEB: Final = (("web", 75), ("file", 15), ("code", 10))
AGENTS: Final = {
    "suites of 15 s": Agents((("suite", 1),), 16, 300_000, LONG, (20, 80), each=2),
    "builds of 15 s": Agents((("build", 1),), 16, 300_000, LONG, (20, 80), each=2),
    "builds, beside calls": Agents((("build", 1),), 16, 400_000, LONG, (20, 80), each=2, calls_per_s=2.0),
    "web": Agents(WEB, 16, 60_000, (4000, 8000), (50, 200), seen=800, each=2),
    "code": Agents(CODE, 24, 100_000, (2000, 4000), (100, 300), seen=350, turns=20),
}


class Copies:
    """A host tier with no memory behind it: copies take their time, one after another."""

    def __init__(self, clock: Clock, slots: int, gb_s: float) -> None:
        self.slots = slots
        self._clock = clock
        self._token_ms = LLAMA.kv_token_bytes / gb_s / 1e6
        self._free = 0.0

    def save(self, slots: Tokens, host: Tokens) -> None:
        """See `HostTier.save`."""
        self._take(len(slots))

    def load(self, host: Tokens, slots: Tokens) -> Copy:
        """See `HostTier.load`."""
        return Copy(self._clock, self._take(len(slots)))

    def load_ms(self, count: int) -> float:
        """See `HostTier.load_ms`."""
        return self._token_ms * count

    def _take(self, count: int) -> float:
        self._free = max(self._free, self._clock.now) + self.load_ms(count) / 1e3
        return self._free


@dataclass
class Copy:
    """It is there at a time."""

    clock: Clock
    at: float

    def done(self) -> bool:
        """See `Arrival.done`."""
        return self.clock.now >= self.at

    def await_on_device(self) -> None:
        """See `Arrival.await_on_device`; here, whoever asks for it waits."""
        self.clock.now = max(self.clock.now, self.at)


@dataclass
class Engine:
    """One worker's engine without the model."""

    clock: Clock
    planner: Planner
    prefetches: bool
    jobs: dict[int, Callable[[Tokens], object]] = field(default_factory=dict)
    busy: bool = False
    wakes: float = math.inf

    def submit(self, prompt: Tokens, output: int, done: Callable[[Tokens], object]) -> None:
        """Read a prompt and write so many tokens behind it; `done` gets all of them."""
        number = len(self.jobs) + 1
        self.jobs[number] = done
        trunk = Ids(prompt, len(prompt) + output)
        self.planner.submit(Job(number, "", 0, self.clock.now, trunk, len(prompt), output))
        if not self.busy:
            self.busy = True
            self.clock.after(0.0, self.step)

    def step(self) -> None:
        """Compute, or wait for what is to be prefetched."""
        if self.prefetches:
            self.planner.prefetch(self.clock.now)
        self.busy = not self.planner.idle
        if not self.busy:
            self._sleep()
            return
        plan = self.planner.plan(self.clock.now)
        self.clock.after(max(_step_ms(plan) / 1e3, POLL_S), lambda: self._land(plan))

    def _sleep(self) -> None:
        wait_s = self.planner.restores.wait_s(self.clock.now) if self.prefetches else None
        if wait_s is not None and not self.clock.now < self.wakes <= self.clock.now + wait_s:
            self.wakes = self.clock.now + max(wait_s, POLL_S)
            self.clock.at(self.wakes, lambda: None if self.busy else self.step())

    def _land(self, plan: StepPlan) -> None:
        now = self.clock.now
        ended = [chunk.job for chunk in plan.chunks if chunk.sequence.remaining <= chunk.count]
        self.planner.commit(plan, now)
        for job in ended:
            job.trunk.append((job.id + job.generated) % VOCABULARY)
        for job in ended:
            if job.generated == job.max_new:
                self.planner.finish(job, now)
                self.jobs[job.id](job.trunk.tokens[: job.trunk.length].copy())
        self.step()


def _step_ms(plan: StepPlan) -> float:
    base, each, pair = LLAMA.costs.prefill_terms
    decodes = [chunk.sequence for chunk in plan.chunks if chunk.job.decoding and chunk.job.generated]
    reads = [chunk for chunk in plan.chunks if chunk.sequence not in decodes]
    ms = 0.0
    if decodes:
        ms = LLAMA.steps(len(decodes)) + LLAMA.costs.decode_terms[2] * sum(s.length for s in decodes)
    if reads:
        ms = max(ms, base)
    return ms + sum(each * c.count + pair * c.count * (c.sequence.computed + c.count / 2) for c in reads)


@dataclass
class Played:
    """What came of one arm."""

    turns: list[float] = field(default_factory=list)  # seconds
    agents: list[float] = field(default_factory=list)  # without their tools
    calls: list[float] = field(default_factory=list)


def play(agents: Agents, arm: str, gb_s: float, seed: int) -> dict[str, float]:
    """One arm; `gb_s` 0: there is no host tier."""
    clock, found, patience = Clock(), Played(), Patience()
    tier = Copies(clock, 4_000_000, math.inf if arm == "free" else gb_s) if gb_s else None
    limits = Limits(131_072, LLAMA.token_budget, LLAMA.max_running)
    planner = Planner(KVCache(agents.kv_tokens, tier), limits)
    base, each, pair = LLAMA.costs.prefill_terms
    planner.cost = StepCost(each, pair, base)
    engine = Engine(clock, planner, prefetches=arm == "next_use")
    chance = Random(seed)
    head = _tokens(chance, HEAD)
    left = agents.places * agents.each

    def begin(place: int, number: int) -> None:
        rng = Random(f"{seed} {place} {number}")
        prompt = np.concatenate([head, _tokens(rng, rng.randint(*agents.prompt) - HEAD)])
        turn(place, number, rng, prompt, max(round(rng.gammavariate(2, agents.turns / 2)), 1), 0.0)

    def turn(place: int, number: int, rng: Random, prompt: Tokens, turns: int, so_far: float) -> None:
        began = clock.now

        def done(text: Tokens) -> None:
            nonlocal left
            found.turns.append(clock.now - began)
            spent = so_far + clock.now - began
            if turns > 1:
                call(place, number, rng, text, turns - 1, spent)
                return
            planner.cache.advise("", text, Dead(HEAD), clock.now)
            found.agents.append(spent)
            left -= 1
            if number < agents.each:
                clock.after(rng.random(), lambda: begin(place, number + 1))

        engine.submit(prompt, rng.randint(*agents.output), done)

    def call(place: int, number: int, rng: Random, text: Tokens, turns: int, spent: float) -> None:
        names, weights = zip(*agents.tools, strict=True)
        (name,) = rng.choices(names, weights)
        seconds = min(LATENCIES[name].draw(rng) / 1e3, 60.0)
        earliest = patience.earliest(name) if arm in ("order", "next_use") else 0.0
        begins = clock.now + earliest if earliest else 0.0
        planner.cache.advise("", text, Pin(clock.now + patience.seconds(name), begins), clock.now)
        seen = _tokens(rng, max(round(rng.gammavariate(2, agents.seen / 2)), 1))

        def back() -> None:
            patience.note(name, seconds)
            turn(place, number, rng, np.concatenate([text, seen]), turns, spent)

        clock.after(seconds, back)
        if not engine.busy:
            engine.step()

    def single(number: int) -> None:
        if not left:
            return
        rng, began = Random(f"{seed} call {number}"), clock.now

        def done(text: Tokens) -> None:
            found.calls.append(clock.now - began)

        engine.submit(_tokens(rng, rng.randint(2000, 6000)), rng.randint(50, 200), done)
        clock.after(rng.expovariate(agents.calls_per_s), lambda: single(number + 1))

    for place in range(agents.places):
        clock.at(chance.uniform(0, 15), partial(begin, place, 1))
    if agents.calls_per_s:
        single(0)
    clock.run()
    assert not left
    return {
        "turn s": fmean(found.turns),
        "turn P50 s": quantiles(found.turns, n=20)[9],
        "turn P95 s": quantiles(found.turns, n=20)[18],
        "agent s": fmean(found.agents),
        "call s": fmean(found.calls) if found.calls else 0.0,
        "computed": planner.computed_tokens,
        "waited for": planner.restores.tokens,
        "ahead": planner.restores.tokens_ahead,
    }


def _tokens(rng: Random, count: int) -> Tokens:
    return np.frombuffer(rng.randbytes(8 * count), dtype=np.uint64).astype(np.int64) % VOCABULARY


def main() -> None:
    """Play all, print it, and write JSON if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--gb-s", type=float, nargs="+", default=(57.0, 25.0, 0.0), help="0: no host tier")
    parser.add_argument("--only", choices=list(AGENTS), nargs="+", default=list(AGENTS))
    parser.add_argument("--json", type=Path, help="write the results there, too")
    options = parser.parse_args()
    report: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "seeds": options.seeds, "rows": []}
    for name in options.only:
        for gb_s in options.gb_s:
            for arm in ARMS if gb_s else ("liveness", "order"):
                rows = [play(AGENTS[name], arm, gb_s, seed) for seed in range(options.seeds)]
                mean = {key: round(fmean(row[key] for row in rows), 4) for key in rows[0]}
                report["rows"].append({"agents": name, "gb_s": gb_s, "arm": arm, **mean})
                told = "  ".join(f"{key} {value:,.3f}".removesuffix(".000") for key, value in mean.items())
                print(f"{name:22} {gb_s:4.0f} GB/s {arm:9} {told}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
