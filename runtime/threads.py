"""Threads for functions that may block, or never end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final

__all__ = ["Threads"]

_IDLE_S: Final = 30.0


class Threads:
    """Daemon threads that serve again: as many as functions run at a time, and they do not hold up an exit.

    One that has had nothing to do for 30 seconds ends.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._work: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._idle = 0  # threads that no function has been put in the queue for

    def run(self, function: Callable[[], object]) -> None:
        """Call a function, which must not raise, in a thread."""
        with self._lock:
            if self._idle:
                self._idle -= 1
            else:
                threading.Thread(target=self._serve, name=self._name, daemon=True).start()
        self._work.put(function)

    def _serve(self) -> None:
        while True:
            try:
                self._work.get(timeout=_IDLE_S)()
            except Empty:
                with self._lock:
                    if self._idle:
                        self._idle -= 1
                        return
                continue  # something is about to be put
            with self._lock:
                self._idle += 1
