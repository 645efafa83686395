"""The embedded runtime: the processes of a server, started for this process and gone with it."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Callable

from weft.runtime.config import Settings
from weft.runtime.layout import ServerLayout
from weft.runtime.supervisor import StartupError, Supervisor

__all__ = ["StartupError", "start", "stop"]


class _Runtime:
    """A supervisor on an event loop in a thread of its own."""

    def __init__(self, settings: Settings, progress: Callable[[str], None]) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="weft-embedded", daemon=True)
        self._thread.start()
        self.supervisor = Supervisor(ServerLayout(settings), progress)
        starting = asyncio.run_coroutine_threadsafe(self.supervisor.start(), self._loop)
        try:
            self.address = starting.result()
        except BaseException:  # also Ctrl-C while it starts: nothing may be left behind
            starting.cancel()
            self.stop()
            raise

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        await self.supervisor.stop()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*rest, return_exceptions=True)


_lock = threading.Lock()
_runtime: _Runtime | None = None


def start(settings: Settings, progress: Callable[[str], None] = lambda message: None) -> str:
    """The address of this process's embedded runtime, which is started by the first call.

    It ends with the process, whichever way that ends. Later calls give the same address, whatever their
    settings; a forked child starts a runtime of its own. `progress` is told what is being started. Raises
    StartupError with one line that says what is wrong.
    """
    global _runtime
    with _lock:
        if _runtime is None:
            _runtime = _Runtime(settings, progress)
        return _runtime.address


def stop() -> None:
    """End the embedded runtime if there is one. The next `start` starts another."""
    global _runtime
    with _lock:
        runtime, _runtime = _runtime, None
        if runtime is not None:
            runtime.stop()


def _forget_in_forked_child() -> None:
    """The parent's runtime is not the child's: let go of its life line, and do not stop it at exit."""
    global _lock, _runtime
    _lock = threading.Lock()
    runtime, _runtime = _runtime, None
    if runtime is not None:
        runtime.supervisor.life_line.close()


atexit.register(stop)
os.register_at_fork(after_in_child=_forget_in_forked_child)
