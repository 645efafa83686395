"""Servers side by side: one for each arm, so that no arm profits from what another has left in a cache."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from weft import Client
from weft.runtime.config import REFERENCE_MODEL, ModelSettings, Settings
from weft.runtime.layout import ServerLayout
from weft.runtime.scheduler.policies import Policies
from weft.runtime.supervisor import Supervisor

from .distance import Line

__all__ = ["HttpServer", "http_server", "server"]


class HttpServer(NamedTuple):
    """A server, and where others call its model as one of OpenAI's."""

    client: Client
    url: str
    """Of its HTTP door, or of the server that it stands in front of: `http://HOST:PORT/v1`."""
    model: str
    """What the model is called there."""


@contextmanager
def server(
    folder: Path,
    passes_off: Sequence[str] = (),
    *,
    model: Path = REFERENCE_MODEL,
    workers: int = 1,
    policies: Policies | None = None,
    kv_tokens: int | None = None,
    host_kv_tokens: int | None = None,
    prompt_lookup: bool = True,
) -> Iterator[Client]:
    """A server of its own on this machine, which keeps no results, so that no answer is looked up.

    The model of a checkpoint's folder on `workers` workers, each with a KV pool of `kv_tokens` tokens, and
    `host_kv_tokens` on the host, or as it chooses; KV caches are on, as they always are. Texts of forced
    lengths want `prompt_lookup` off: behind their ends they go round in loops, of which drafts from the
    context are always right.
    """
    own = {"passes_off": list(passes_off), "scheduler": policies or Policies()}
    served = ModelSettings(
        path=str(model),
        workers=workers,
        kv_tokens=kv_tokens,
        host_kv_tokens=host_kv_tokens,
        prompt_lookup=prompt_lookup,
    )
    settings = _settings(served, folder).model_copy(update=own)
    with _running(ServerLayout(settings)) as (address, _), _client(address) as client:
        yield client


@contextmanager
def http_server(
    model: Path,
    folder: Path,
    passes_off: Sequence[str] = (),
    *,
    kv_tokens: int | None = None,
    one_way_s: float = 0.0,
    url: str = "",
) -> Iterator[HttpServer]:
    """As `server`, at ports of this machine, with a checkpoint's folder as its model.

    `kv_tokens`: what it keeps, all on the device, so that several share one; by default as much as there is
    memory. `one_way_s`: how far clients of either door are from it. `url`: of a server that has loaded the
    model, which is called by others, and which this one stands in front of.
    """
    own = {"http": "127.0.0.1:0", "passes_off": list(passes_off)}
    served = ModelSettings(path=str(model))
    if url:
        served = ModelSettings(name=_served(url), path=str(model), url=url)
    if kv_tokens is not None:
        served = served.model_copy(update={"kv_tokens": kv_tokens, "host_kv_tokens": 0})
    settings = _settings(served, folder).model_copy(update=own)
    running = _running(ServerLayout(settings, "127.0.0.1:0"), one_way_s)
    with running as (address, http), _client(address) as client:
        yield HttpServer(client, url or f"http://{http}/v1", settings.models[0].name)


def _served(url: str) -> str:
    """The first model of a server. Raises httpx.HTTPError if that cannot be told."""
    answer = httpx.get(f"{url}/models").raise_for_status()
    return str(answer.json()["data"][0]["id"])


def _settings(model: ModelSettings, folder: Path) -> Settings:
    return Settings(models=[model], data=folder, result_cache_mb=0)


@contextmanager
def _running(layout: ServerLayout, one_way_s: float = 0.0) -> Iterator[tuple[str, str]]:
    """Addresses of a server's gRPC and HTTP doors (none: empty), or of the lines before them."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    supervisor = Supervisor(layout)
    lines: list[Line] = []

    def done(work: Coroutine[Any, Any, str | None]) -> str:
        return asyncio.run_coroutine_threadsafe(work, loop).result() or ""

    def reached(door: str) -> str:
        if not one_way_s or not door:
            return door
        lines.append(Line(door, one_way_s))
        return done(lines[-1].open())

    try:
        address = done(supervisor.start())
        yield reached(address), reached(supervisor.http)
    finally:
        for line in lines:
            done(line.close())
        done(supervisor.stop())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def _client(address: str) -> Iterator[Client]:
    client = Client(address)
    yield client
    client.close()
