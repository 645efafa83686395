"""Servers side by side: one for each arm, so that no arm profits from what another has left in a cache."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from weft import Client
from weft.runtime.config import REFERENCE_MODEL, ModelSettings, Settings
from weft.runtime.layout import ServerLayout
from weft.runtime.scheduler.policies import Policies
from weft.runtime.supervisor import Supervisor

__all__ = ["HttpServer", "http_server", "server"]


class HttpServer(NamedTuple):
    """A server with both doors."""

    client: Client
    http: str
    """Where it speaks HTTP, as HOST:PORT."""
    model: str
    """The name of its model."""


@contextmanager
def server(
    folder: Path, passes_off: Sequence[str] = (), *, workers: int = 1, policies: Policies | None = None
) -> Iterator[Client]:
    """A server of its own on this machine, which keeps no results, so that no answer is looked up.

    The reference model on `workers` workers; KV caches are on, as they always are.
    """
    own = {"passes_off": list(passes_off), "scheduler": policies or Policies()}
    settings = _settings(REFERENCE_MODEL, folder, workers).model_copy(update=own)
    with _running(ServerLayout(settings)) as (_, client):
        yield client


@contextmanager
def http_server(model: Path, folder: Path) -> Iterator[HttpServer]:
    """As `server`, at ports of this machine, with a checkpoint's folder as its model."""
    settings = _settings(model, folder).model_copy(update={"http": "127.0.0.1:0"})
    with _running(ServerLayout(settings, "127.0.0.1:0")) as (supervisor, client):
        yield HttpServer(client, supervisor.http, settings.models[0].name)


def _settings(model: Path, folder: Path, workers: int = 1) -> Settings:
    models = [ModelSettings(path=str(model), workers=workers)]
    return Settings(models=models, data=folder, result_cache_mb=0)


@contextmanager
def _running(layout: ServerLayout) -> Iterator[tuple[Supervisor, Client]]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    supervisor = Supervisor(layout)
    try:
        client = Client(asyncio.run_coroutine_threadsafe(supervisor.start(), loop).result())
        yield supervisor, client
        client.close()
    finally:
        asyncio.run_coroutine_threadsafe(supervisor.stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
