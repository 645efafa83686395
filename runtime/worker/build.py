"""The engines that a configuration asks for."""

from __future__ import annotations

import os
from pathlib import Path

from weft.runtime.access import KEYLESS, Access
from weft.runtime.config import INDEX_DATABASE, MODEL_KEY, ModelSettings, WorkerConfig
from weft.runtime.retrieval.embedder import HashEmbedder
from weft.runtime.retrieval.errors import IndexServerError
from weft.runtime.retrieval.place import index_tables
from weft.runtime.retrieval.tables import Tables

from .engines.base import Engine, StartError
from .engines.embed import EmbedEngine
from .engines.index import IndexEngine
from .engines.rerank import RerankEngine
from .engines.tool import ToolEngine

__all__ = ["build_engines"]


def build_engines(config: WorkerConfig, access: Access = KEYLESS) -> list[Engine]:
    """One engine per kind, not yet started. Without a cross-encoder there is no rerank engine.

    `access`: with it the server's other workers are asked for KV. Raises StartError.
    """
    engines: list[Engine] = []
    if "llm" in config.kinds and config.model is not None:
        engines.append(_llm_engine(config.model, config.profile_s, access))
    if "embed" in config.kinds:
        engines.append(EmbedEngine(config.embedder, profile_s=config.profile_s / 2))
    if "index" in config.kinds:
        cache_bytes = config.result_cache_mb << 20
        engines.append(IndexEngine(_tables(config), _embedder_name(config.embedder), cache_bytes=cache_bytes))
    if "rerank" in config.kinds and config.reranker is not None:
        engines.append(RerankEngine(config.reranker, profile_s=config.profile_s / 2))
    if "tool" in config.kinds:
        engines.append(ToolEngine(config.tools, config.programs))
    return engines


def _llm_engine(model: ModelSettings, profile_s: float, access: Access) -> Engine:
    if model.url is not None:
        from .engines.upstream.engine import UpstreamEngine  # brings httpx, which nothing else here needs

        return UpstreamEngine(model, model.url, key=os.environ.pop(MODEL_KEY, ""))
    from .engines.llm import LlmEngine  # brings torch, which the other engines may do without

    return LlmEngine(model, profile_s=profile_s, access=access)


def _tables(config: WorkerConfig) -> Tables:
    try:
        return index_tables(os.environ.pop(INDEX_DATABASE, ""), config.data)
    except IndexServerError as problem:
        raise StartError(str(problem)) from problem


def _embedder_name(spec: str | None) -> str:
    """The name that `load_embedder(spec)` gives its embedder, without loading it."""
    return (
        HashEmbedder.name
        if spec in (None, HashEmbedder.name)
        else Path(str(spec)).expanduser().resolve().name
    )
