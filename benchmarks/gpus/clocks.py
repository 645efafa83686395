"""Requests to an engine in the process, and when their tokens come."""

from __future__ import annotations

import time
from collections.abc import Sequence

from weft.graph.sampling import Sampling
from weft.runtime.llm.engine import LLMEngine
from weft.runtime.llm.requests import Delta, Event, Failed, Finished, GenerateRequest

from .prompts import Ids

__all__ = ["Clock", "serve", "submit", "wait"]


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


def serve(engine: LLMEngine, prompts: Sequence[Ids], output: int) -> list[list[float]]:
    """Run requests at once; seconds from the first one's submission to each token of each."""
    began = time.perf_counter()
    clocks = wait([submit(engine, ids, Sampling(max_tokens=output)) for ids in prompts])
    return [[at - began for at in clock.times] for clock in clocks]
