"""`weft models`: what a server has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from weft.proto import orchestrator_pb2 as pb
from weft.proto import worker_pb2

from .output import OUTPUT, print_json, print_table
from .server import ConfigOption, JsonOption, ServerOption, client_for

__all__ = ["command", "summary"]


def command(server: ServerOption = None, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """List the models, indexes and tools of a server, and its workers."""
    found = summary(client_for(server, config).describe())
    if as_json:
        print_json(found)
        return
    for title, rows in found.items():
        if isinstance(rows, list) and rows:
            columns = [column.replace("_", " ") for column in rows[0]]
            print_table(title, columns, [list(row.values()) for row in rows])
            OUTPUT.out("")


def summary(info: pb.ServerInfo) -> dict[str, Any]:
    """What a server has, as JSON data."""
    return {
        "version": info.version,
        "models": list(_models(info)),
        "embedders": list(_small_models(info, "embed")),
        "rerankers": list(_small_models(info, "rerank")),
        "indexes": _indexes(info),
        "tools": list(_tools(info)),
        "programs": [{"name": name} for name in info.programs],
        "workers": [
            {
                "id": worker.worker_id,
                "engines": " ".join(engine.kind for engine in worker.engines),
                "pid": worker.pid,
                "address": worker.address,
            }
            for worker in info.workers
        ],
    }


def _engines(info: pb.ServerInfo, kind: str) -> Iterator[tuple[str, worker_pb2.EngineInfo]]:
    for worker in info.workers:
        for engine in worker.engines:
            if engine.kind == kind:
                yield worker.worker_id, engine


def _models(info: pb.ServerInfo) -> Iterator[dict[str, Any]]:
    for worker, engine in _engines(info, "llm"):
        yield {
            "name": engine.model,
            "default": engine.model == info.default_model,
            "detail": engine.detail,
            "context_tokens": engine.llm.context_length,
            "kv_tokens": engine.llm.kv_slots,
            "worker": worker,
        }


def _small_models(info: pb.ServerInfo, kind: str) -> Iterator[dict[str, Any]]:
    for worker, engine in _engines(info, kind):
        yield {"name": engine.model, "detail": engine.detail, "worker": worker}


def _indexes(info: pb.ServerInfo) -> list[dict[str, Any]]:
    """Of what workers say, who share indexes, the latest counts."""
    said = [index for _, engine in _engines(info, "index") for index in engine.indexes]
    said += [index for status in info.status.values() for index in status.indexes]
    latest = {index.name: index for index in sorted(said, key=lambda index: index.version)}
    return [
        {"name": index.name, "passages": index.passages, "embedder": index.embedder}
        for _, index in sorted(latest.items())
    ]


def _tools(info: pb.ServerInfo) -> Iterator[dict[str, Any]]:
    for worker, engine in _engines(info, "tool"):
        for tool in engine.tools:
            yield {"name": tool.name, "description": tool.description, "worker": worker}
