"""The clock of the orchestrator: that of its event loop, monotonic seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["Timer", "now"]


def now() -> float:
    """The time, in the event loop's thread."""
    return asyncio.get_running_loop().time()


class Timer:
    """Calls back at a time of the monotonic clock; an earlier wish replaces a later one."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._handle: asyncio.TimerHandle | None = None

    def wake_at(self, when: float) -> None:
        """Call back at `when`, which is earlier than any wish that still stands."""
        self.stop()
        self._handle = asyncio.get_running_loop().call_at(when, self._callback)

    def stop(self) -> None:
        """Forget the wish."""
        if self._handle:
            self._handle.cancel()
        self._handle = None
