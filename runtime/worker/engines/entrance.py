"""Requests on their way into an LLM engine: those of one turn of the event loop enter it together."""

from __future__ import annotations

import asyncio

from weft.runtime.llm.engine import Entry, LLMEngine
from weft.runtime.llm.errors import EngineClosedError
from weft.runtime.llm.requests import Failed, Request, Sink

__all__ = ["Entrance"]


class Entrance:
    """Submits what the tasks of a message ask for as a whole. Belongs to the running event loop.

    An idle engine begins a step with the first request that it sees. What would follow within a millisecond
    has to wait for that step, and then takes one of its own.
    """

    def __init__(self, engine: LLMEngine) -> None:
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._entries: list[Entry] = []

    def submit(self, request: Request, sink: Sink) -> int:
        """Submit a request at the end of this turn of the loop. Returns a handle for `cancel`.

        Raises as `LLMEngine.admit`. If the engine is closed before that, the request fails.
        """
        entry = self._engine.admit(request, sink)
        if not self._entries:
            self._loop.call_soon(self._enter)
        self._entries.append(entry)
        return entry.handle

    def cancel(self, handle: int) -> None:
        """Cancel a request. Raises `EngineClosedError`."""
        self._enter()
        self._engine.cancel(handle)

    def _enter(self) -> None:
        entries, self._entries = self._entries, []
        if not entries:
            return
        try:
            self._engine.enter(entries)
        except EngineClosedError as error:
            for entry in entries:
                entry.task.sink([Failed(error)])
