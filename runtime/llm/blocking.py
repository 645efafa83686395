"""Requests without callbacks: submit, wait, and get all events."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from .engine import LLMEngine
from .requests import Delta, Event, PrefillRequest, PromptDone, Request

__all__ = ["run_requests"]


class _Collector:
    """A sink that keeps the events of one request until the last has come."""

    def __init__(self, request: Request) -> None:
        self.events: list[Event] = []
        self.ended = threading.Event()
        self._prefill = isinstance(request, PrefillRequest)

    def __call__(self, events: Sequence[Event]) -> None:
        self.events.extend(events)
        if self._prefill or not isinstance(events[-1], PromptDone | Delta):
            self.ended.set()


def run_requests(
    engine: LLMEngine, requests: Sequence[Request], timeout: float | None = None
) -> list[list[Event]]:
    """Run `requests` concurrently and return the events of each.

    Raises `RequestError` if one is refused, and `TimeoutError` if one has not ended after `timeout` seconds.
    """
    collectors = [_Collector(request) for request in requests]
    for request, collector in zip(requests, collectors, strict=True):
        engine.submit(request, collector)
    for index, collector in enumerate(collectors):
        if not collector.ended.wait(timeout):
            raise TimeoutError(f"request {index} has not ended after {timeout} seconds")
    return [collector.events for collector in collectors]
