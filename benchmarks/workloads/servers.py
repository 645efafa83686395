"""Servers side by side: one for each arm, so that no arm profits from what another has left in a cache."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from weft import Client
from weft.runtime.config import REFERENCE_MODEL, ModelSettings, Settings
from weft.runtime.layout import ServerLayout
from weft.runtime.scheduler.policies import Policies
from weft.runtime.supervisor import Supervisor

__all__ = ["server"]


@contextmanager
def server(
    folder: Path, passes_off: Sequence[str] = (), *, workers: int = 1, policies: Policies | None = None
) -> Iterator[Client]:
    """A server of its own on this machine, which keeps no results, so that no answer is looked up.

    The reference model on `workers` workers; KV caches are on, as they always are.
    """
    settings = Settings(
        models=[ModelSettings(path=str(REFERENCE_MODEL), workers=workers)],
        scheduler=policies or Policies(),
        data=folder,
        passes_off=list(passes_off),
        result_cache_mb=0,
    )
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    supervisor = Supervisor(ServerLayout(settings))
    try:
        client = Client(asyncio.run_coroutine_threadsafe(supervisor.start(), loop).result())
        yield client
        client.close()
    finally:
        asyncio.run_coroutine_threadsafe(supervisor.stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
