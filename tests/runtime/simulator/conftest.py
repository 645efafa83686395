"""A small world on a virtual clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from weft.graph.costs import DecodePoint, ModelCosts, PrefillPoint
from weft.runtime.scheduler.policies import Policies
from weft.runtime.scheduler.prefixes import Block, digest, extend, start
from weft.runtime.scheduler.scheduler import Scheduler
from weft.runtime.simulator.builder import Builder, Form
from weft.runtime.simulator.cache import Path
from weft.runtime.simulator.clock import Clock
from weft.runtime.simulator.profiles import BatchProfile, LlmProfile
from weft.runtime.simulator.simulation import Delays, Simulation
from weft.runtime.simulator.worker import Report, SimWorker

COSTS = ModelCosts(
    (PrefillPoint(0, 100, 100.0), PrefillPoint(100, 100, 100.0), PrefillPoint(0, 1000, 1000.0)),
    (DecodePoint(1, 100, 10.0), DecodePoint(2, 100, 10.0), DecodePoint(4, 100, 10.0)),
    8,
)
"""1 ms a token to read, 10 ms a step to write, whatever else there is."""

LLM = LlmProfile(COSTS, kv_slots=10_000, token_budget=100, max_running=8)
BATCHES = tuple(BatchProfile(kind, call_ms=5.0, item_ms=1.0) for kind in ("embed", "index", "rerank"))


def path(*texts: tuple[str, int]) -> Path:
    """A prompt of named texts."""
    return extend(start("m", ""), [Block(digest(name), float(tokens)) for name, tokens in texts])


def world(
    workers: int = 1, *, llm: LlmProfile = LLM, policies: Policies | None = None, keep_calls: bool = False
) -> Simulation:
    """Workers with a model and all engines that compute batches; nothing takes time but they."""
    simulation = Simulation(Scheduler(policies), Delays(0.0), keep_calls=keep_calls)
    for number in range(workers):
        simulation.join(worker(f"w{number}", llm))
    return simulation


def worker(name: str, llm: LlmProfile = LLM) -> Callable[[Clock, Report], SimWorker]:
    """Makes a worker."""
    return lambda clock, report: SimWorker(name, clock, report, llms=[llm], batches=BATCHES, tools=["t"])


def builder(name: str = "p", form: Form = "graph") -> Builder:
    return Builder(name, COSTS, form, name)


def small(kv_slots: int) -> LlmProfile:
    return replace(LLM, kv_slots=kv_slots)
