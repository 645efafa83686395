"""Starting an engine whose model a server runs: waiting for it, and finding out what it is."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Final

from weft.proto import worker_pb2
from weft.runtime.config import ModelSettings
from weft.runtime.llm.chat import ChatTemplate
from weft.runtime.llm.errors import ModelError
from weft.runtime.llm.hub import resolve_folder
from weft.runtime.llm.tokenizer import Tokenizer
from weft.runtime.llm.tokenizer_files import read_object

from ...faults import TaskError
from ..base import StartError
from .client import Client
from .dialects import DIALECTS, Dialect, dialect_of

__all__ = ["MOST_REQUESTS", "Served", "connect", "describe"]

MOST_REQUESTS: Final = 64
"""At a time, by default."""

_POLL_S: Final = 0.5
_PROBE: Final = "The quick brown fox jumps over 13 lazy dogs."


@dataclass(frozen=True, slots=True)
class Served:
    """A model that a server runs, and the tokenizer by which it is asked."""

    name: str
    """What the server calls it."""
    dialect: Dialect
    context_length: int
    tokenizer: Tokenizer
    chat: ChatTemplate | None


async def connect(settings: ModelSettings, client: Client) -> Served:
    """Wait for the server, and try whether it takes what weft sends. Raises StartError with one line."""
    try:
        folder = await asyncio.to_thread(resolve_folder, settings.path, weights=False)
        tokenizer, chat = Tokenizer.from_folder(folder), ChatTemplate.from_folder(folder)
        card = _chosen(settings, await _models(settings, client))
        dialect = dialect_of(card.get("owned_by"))
        if settings.dialect != "auto":
            dialect = DIALECTS[settings.dialect]
        context = (
            settings.context_length
            or _context_length(card)
            or _configured(read_object(folder / "config.json"))
        )
        if not context:
            raise StartError(
                "neither the server nor config.json says how long a text it takes: set context_length"
            )
        served = Served(str(card["id"]), dialect, context, tokenizer, chat)
        await _try(settings, client, served)
    except (ModelError, StartError, TaskError) as problem:
        raise StartError(f"model {settings.name!r}: {problem}") from problem
    return served


async def _models(settings: ModelSettings, client: Client) -> list[dict[str, Any]]:
    """What the server serves, once it answers."""
    until = time.monotonic() + settings.wait_s
    while True:
        try:
            return await client.models()
        except TaskError as problem:
            if problem.code == "not_found":
                raise StartError(
                    f"there is no {settings.url}/models; the URL of an OpenAI-compatible server ends with /v1"
                ) from problem
            if not problem.retryable:
                raise
            if time.monotonic() + _POLL_S > until:
                raise StartError(
                    f"no server answers at {settings.url} within {settings.wait_s:g} s ({problem}); check "
                    "the URL, and that the server has started, or raise wait_s"
                ) from problem
        await asyncio.sleep(_POLL_S)


def _chosen(settings: ModelSettings, cards: list[dict[str, Any]]) -> dict[str, Any]:
    """The entry of the model in the server's list, which may hold embedders and programs besides."""
    models = {str(card["id"]): card for card in cards if card.get("kind", "model") == "model"}
    wanted = settings.served_as or settings.name
    if wanted in models:
        return models[wanted]
    if len(models) == 1 and not settings.served_as:
        return next(iter(models.values()))
    listed = ", ".join(map(repr, models)) or "none"
    raise StartError(
        f"the server at {settings.url} has no model {wanted!r}; set served_as to one of: {listed}"
    )


def _context_length(card: dict[str, Any]) -> int:
    """As vLLM, SGLang and weft say it, or llama.cpp; 0: not said."""
    meta = card.get("meta")
    return int(card.get("max_model_len") or (meta.get("n_ctx") if isinstance(meta, dict) else 0) or 0)


def _configured(config: dict[str, Any]) -> int:
    nested = config.get("text_config")
    found = config | (nested if isinstance(nested, dict) else {})
    return int(found.get("max_position_embeddings") or 0)


async def _try(settings: ModelSettings, client: Client, served: Served) -> None:
    """Ask for one token, which shows whether the server takes ids, and reads in them what was written.

    Raises StartError for another tokenizer than the model's, and TaskError for a request that is refused.
    """
    ids = served.tokenizer.encode(_PROBE, bos=False)
    body: dict[str, Any] = {"model": served.name, "prompt": ids, "max_tokens": 1, "temperature": 0.0}
    echo = served.dialect.echoes and served.dialect.owner != ""  # of others it is not known whether they do
    told = await client.complete(body | ({"echo": True} if echo else {}))
    usage, choices = told.get("usage") or {}, told.get("choices") or [{}]
    echoed = str(choices[0].get("text") or "").strip()
    if usage.get("prompt_tokens", len(ids)) != len(ids) or (echo and not echoed.startswith(_PROBE)):
        raise StartError(
            f"the server at {settings.url} does not read the token ids of {settings.path!r} as they were "
            f"written: 'path' must be the tokenizer of its model {served.name!r}"
        )


def describe(settings: ModelSettings, served: Served) -> worker_pb2.EngineInfo:
    """What an orchestrator and people need to know of the model. No KV is kept here, and none is counted."""
    return worker_pb2.EngineInfo(
        kind="llm",
        model=settings.name,
        detail=f"{served.name} at {settings.url} ({served.dialect.name})",
        llm=worker_pb2.LlmInfo(
            context_length=served.context_length,
            tokenizer=served.tokenizer.fingerprint,
            chat_template=served.chat.to_json() if served.chat else "",
            control_tokens=sorted(served.tokenizer.control_tokens),
        ),
        capacity=settings.max_running or MOST_REQUESTS,
        processor=settings.url or "",
    )
