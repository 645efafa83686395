"""The clock of the orchestrator: monotonic seconds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

__all__ = ["Timer", "now"]


now = time.monotonic
"""The time. That of an event loop may stand still while the loop is at work."""


class Timer:
    """Calls back at a time of the monotonic clock; an earlier wish replaces a later one."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._handle: asyncio.TimerHandle | None = None

    def wake_at(self, when: float) -> None:
        """Call back at `when`, which is earlier than any wish that still stands."""
        self.stop()
        self._handle = asyncio.get_running_loop().call_later(max(0.0, when - now()), self._callback)

    def stop(self) -> None:
        """Forget the wish."""
        if self._handle:
            self._handle.cancel()
        self._handle = None
