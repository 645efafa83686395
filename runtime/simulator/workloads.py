"""Programs as people run them: agents, retrieval, map-reduce, chains, debates, chats; and when they arrive.

Arrivals are a Poisson process of programs; inside a program everything waits for what it needs (a partly open
system: Schroeder et al., NSDI 2006). The lengths are those of published generators and traces, named where
they are used; lognormal where only a median and a tail are known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from random import Random
from statistics import NormalDist
from typing import Final, NamedTuple

from weft.graph.costs import ModelCosts
from weft.graph.ir import Value

from .builder import Builder, Form, Text
from .programs import Arrival, Program

__all__ = ["INSTRUCTIONS", "WEB", "WORKLOADS", "Mix", "Workload", "arrivals"]

Workload = Callable[[Builder, Random], None]
"""Writes one run of a program."""

_NORMAL: Final = NormalDist()


class Latency(NamedTuple):
    """Of a tool, in milliseconds."""

    p50: float
    p95: float
    p99: float

    def draw(self, rng: Random) -> float:
        """One latency: its logarithm is linear between the quantiles on a normal scale."""
        z = _NORMAL.inv_cdf(min(max(rng.random(), 1e-6), 1 - 1e-6))
        low, high = (0.0, 1.645) if z < 1.645 else (1.645, 2.326)
        at_low, at_high = (self.p50, self.p95) if z < 1.645 else (self.p95, self.p99)
        slope = (math.log(at_high) - math.log(at_low)) / (high - low)
        return math.exp(math.log(at_low) + slope * (z - low))


TOOLS: Final[Mapping[str, Latency]] = {
    "code": Latency(180, 2400, 28_000),
    "file": Latency(45, 320, 1200),
    "web": Latency(850, 4500, 45_000),
    "db": Latency(120, 890, 3500),
    "suite": Latency(15_000, 20_000, 30_000),
    "query": Latency(2000, 2400, 3000),
}
"""As SAGA's generator has them (arXiv:2605.00528), but for the last two, which are made up."""

INSTRUCTIONS: Final = 1000
"""Tokens that the prompts of all agents of a kind begin with."""


class Call(NamedTuple):
    """Of a tool, by an agent."""

    tool: str
    ms: float
    tokens: int  # of its result


class Turn(NamedTuple):
    """Of an agent: what it writes, and the call that follows, but on the last."""

    tokens: int
    call: Call | None


class Agent(NamedTuple):
    """A kind of agents."""

    shape: float  # half the turns that they take in the mean
    most: int  # turns
    prompt: tuple[int, int]  # tokens, instructions included
    out: tuple[int, int]  # tokens of a turn
    seen: float  # half the tokens of a result in the mean
    tools: Mapping[str, int]  # how often each is called, relatively

    def draw(self, rng: Random) -> tuple[int, list[Turn]]:
        """One of them: the tokens of its task, and its turns."""
        turns = min(max(round(rng.gammavariate(2, self.shape)), 1), self.most)
        task = rng.randint(*self.prompt) - INSTRUCTIONS
        return task, [self._turn(rng, last=turn + 1 == turns) for turn in range(turns)]

    def _turn(self, rng: Random, *, last: bool) -> Turn:
        tokens = rng.randint(*self.out)
        if last:
            return Turn(tokens, None)
        tool = rng.choices(list(self.tools), list(self.tools.values()))[0]
        return Turn(tokens, Call(tool, TOOLS[tool].draw(rng), max(round(rng.gammavariate(2, self.seen)), 1)))


SWE: Final = Agent(18.5, 150, (2000, 4000), (100, 500), 175, {"code": 45, "file": 40, "web": 10, "db": 5})
"""Mends software: 37 turns in the mean, tools with heavy tails (SAGA's SWE-bench)."""

WEB: Final = Agent(9.0, 80, (4000, 8000), (50, 200), 400, {"web": 75, "file": 15, "code": 10})
"""Browses: 18 turns in the mean, long observations, slow tools (SAGA's WebArena)."""

STEADY: Final = Agent(7.0, 60, (4000, 8000), (50, 200), 400, {"suite": 50, "query": 50})
"""Has tools that take about as long every time: a suite of tests, a large query."""


def _agent(builder: Builder, rng: Random, agent: Agent) -> None:
    task, turns = agent.draw(rng)
    prompt: list[Text | Value] = [Text(f"{builder.name} instructions", INSTRUCTIONS)]
    prompt.append(builder.input("task", task))
    for tokens, call in turns:
        said = builder.write(prompt, tokens, sum(agent.out) / 2)
        if call is not None:
            expected_ms = TOOLS[call.tool].p50
            result = builder.tool(call.tool, call.ms, [said], tokens=call.tokens, expected_ms=expected_ms)
            builder.after(result)
            prompt += [said, result]


def chat(builder: Builder, rng: Random) -> None:
    """A conversation: turns at human pace, each answer read along by somebody."""
    turns: list[Text | Value] = [Text(f"assistant {rng.randrange(4)}", 600)]
    turns.append(builder.input("question", rng.randint(20, 400)))
    for _ in range(1 + min(int(rng.expovariate(1 / 3)), 12)):
        said = builder.write(turns, _length(rng, 200, 0.6, 800), 230)
        ms = 1e3 * math.exp(rng.gauss(math.log(8), 0.8))
        question = builder.tool("user", ms, [said], tokens=rng.randint(20, 200), expected_ms=8000)
        builder.after(question)
        turns += [said, question]


def map_reduce(builder: Builder, rng: Random) -> None:
    """A document of 16 chunks summarized in parts, and the summaries in one (Parrot, section 8.2)."""
    size = rng.choice((512, 1024, 1024, 2048))
    instructions = Text("map instructions", 120)
    parts = [
        builder.write([instructions, builder.input(f"chunk {n}", size)], rng.randint(50, 100), 75)
        for n in range(16)
    ]
    builder.write([Text("reduce instructions", 100), *parts], rng.randint(100, 200), 150)


def chain(builder: Builder, rng: Random) -> None:
    """A document of 20 chunks, each summarized with the summary of those before it (Parrot, section 8.2)."""
    so_far: list[Text | Value] = []
    instructions = Text("chain instructions", 100)
    for number in range(20):
        part = builder.input(f"chunk {number}", 1024)
        so_far = [builder.write([instructions, *so_far, part], rng.randint(50, 100), 75)]


def debate(builder: Builder, rng: Random) -> None:
    """Three agents in two rounds, and a judge (Helium's Debate)."""
    question = builder.input("question", rng.randint(128, 1024))
    roles = [Text(f"debater {number}", 1024) for number in range(3)]
    turns: list[list[Text | Value]] = [[role, question] for role in roles]
    said: list[Value] = []
    for _ in range(2):
        said = [builder.write(turn, _length(rng, 200, 0.4, 512), 216) for turn in turns]
        turns = [[*turn, *said] for turn in turns]
    builder.write([Text("judge", 512), question, *said], rng.randint(50, 150), 100)


def rag(builder: Builder, rng: Random) -> None:
    """Advanced RAG: queries from a question, searches, reranking, answers that refine one another (Teola)."""
    question = builder.input("question", rng.randint(20, 60))
    queries = builder.write([Text("expansion instructions", 300), question], rng.randint(40, 80), 60)
    found = [builder.search([builder.embed(1, [queries])], tokens=1600) for _ in range(3)]
    best = builder.rerank(found, items=48, tokens=256)
    more = [builder.rerank(found, items=1, tokens=256, ms=1.0) for _ in range(2)]
    answer: list[Text | Value] = []
    for passage in (best, *more):
        answer = [
            builder.write(
                [Text("refine instructions", 200), question, passage, *answer], rng.randint(60, 160), 110
            )
        ]


def coding(builder: Builder, rng: Random) -> None:
    """An architect, eight coders of its interfaces, a reviewer of each (MetaGPT, as in Parrot)."""
    task = builder.input("task", rng.randint(200, 600))
    api = builder.write([Text("architect", 700), task], _length(rng, 1500, 0.2, 2500), 1530)
    for number in range(8):
        file = Text(f"file {number}", 60)
        code = builder.write([Text("coder", 500), task, api, file], _length(rng, 600, 0.4, 1500), 650)
        builder.write([Text("reviewer", 400), task, api, file, code], _length(rng, 150, 0.4, 400), 160)


def family(builder: Builder, rng: Random) -> None:
    """A call of one of four applications with long prompts, one of them most popular (GPTs, as in Parrot)."""
    number = rng.choices(range(4), (8, 4, 2, 1))[0]
    prompt = [Text(f"application {number}", 6000), builder.input("request", rng.randint(50, 400))]
    builder.write(prompt, _length(rng, 250, 0.6, 800), 290)


WORKLOADS: Final[Mapping[str, Workload]] = {
    "swe": partial(_agent, agent=SWE),
    "webarena": partial(_agent, agent=WEB),
    "steady": partial(_agent, agent=STEADY),
    "chat": chat,
    "map_reduce": map_reduce,
    "chain": chain,
    "debate": debate,
    "rag": rag,
    "coding": coding,
    "family": family,
}


class Mix(NamedTuple):
    """Workloads by name, with the programs of each that arrive in a second."""

    rates: Mapping[str, float]
    namespaces: Mapping[str, str] = {}  # by workload; none: one for all
    priorities: Mapping[str, int] = {}


NO_MIX: Final = Mix({})


def arrivals(mix: Mix, seconds: float, seed: int, costs: ModelCosts, form: Form) -> Iterator[Arrival]:
    """Programs as they arrive. The same seed gives the same programs at the same times in either form."""
    rng = Random(seed)
    names = list(mix.rates)
    total = sum(mix.rates.values())
    time, count = 0.0, 0
    while (time := time + rng.expovariate(total)) < seconds:
        name = rng.choices(names, [mix.rates[name] for name in names])[0]
        count += 1
        program = one(name, Random(f"{seed} {count}"), costs, form, f"{name} {seed} {count}", mix)
        yield Arrival(time, program)


def one(name: str, rng: Random, costs: ModelCosts, form: Form, identity: str, mix: Mix = NO_MIX) -> Program:
    """One run of a workload."""
    builder = Builder(name, costs, form, identity)
    WORKLOADS[name](builder, rng)
    return builder.build(namespace=mix.namespaces.get(name, ""), priority=mix.priorities.get(name, 0))


def _length(rng: Random, median: float, sigma: float, most: int) -> int:
    return min(max(round(median * math.exp(rng.gauss(0, sigma))), 1), most)
