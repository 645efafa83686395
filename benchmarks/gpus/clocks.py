"""Requests to an engine in the process, and when their tokens come."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

from weft.graph.sampling import Sampling
from weft.runtime.llm.engine import LLMEngine
from weft.runtime.llm.requests import Delta, Event, Failed, Finished, GenerateRequest

__all__ = ["Clock", "prompt_of", "serve", "submit", "wait"]

Ids = tuple[int, ...]


class Clock:
    """A sink that notes when tokens come."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.done = self.failed = False

    def __call__(self, events: Sequence[Event]) -> None:
        """Take the events of a step."""
        now = time.perf_counter()
        for event in events:
            if isinstance(event, Delta):
                self.times += [now] * len(event.ids)
            self.failed = self.failed or isinstance(event, Failed)
            self.done = self.done or isinstance(event, Finished | Failed)


def prompt_of(length: int, vocab: int, chance: random.Random) -> Ids:
    """Made-up tokens."""
    return tuple(chance.choices(range(10, vocab), k=length))


def submit(engine: LLMEngine, ids: Ids, sampling: Sampling) -> Clock:
    """Ask for a text."""
    clock = Clock()
    engine.submit(GenerateRequest(ids, sampling=sampling), clock)
    return clock


def wait(clocks: Sequence[Clock]) -> Sequence[Clock]:
    """Until all have ended; raises RuntimeError if one has failed."""
    while not all(clock.done for clock in clocks):
        time.sleep(0.002)
    if any(clock.failed for clock in clocks):
        raise RuntimeError("a request failed")
    return clocks


def serve(engine: LLMEngine, batch: int, prompt: int, output: int, seed: int) -> Sequence[Clock]:
    """Run requests that share nothing; when their tokens came."""
    chance, vocab = random.Random(seed), engine.info.vocab_size
    sampling = Sampling(max_tokens=output)
    return wait([submit(engine, prompt_of(prompt, vocab, chance), sampling) for _ in range(batch)])
