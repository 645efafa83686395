"""The workers that are there, and what they offer together."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

from weft.graph.codec import decode_type
from weft.graph.deployment import Deployment, ModelSpec, ToolSpec, every_node
from weft.graph.ir import Graph, Node
from weft.graph.ops.base import Op
from weft.graph.ops.common import Embed, Neighbours, Search, Tool
from weft.graph.ops.user import Generate, Ingest, Probe, Rerank, Select
from weft.graph.prompt import ChatRenderer
from weft.proto import worker_pb2

from .chat import TemplateRenderer
from .profiles import costs_of
from .workers import WorkerLink

__all__ = ["Fleet"]

_CHAT_CACHE: Final = 32  # templates


class Fleet:
    """Joined workers by id, and what lost ones offered.

    `preferred` is the model for programs that name none, if a worker offers it. What a lost worker offered
    counts for `grace_s` seconds more: it may be about to come back.
    """

    def __init__(self, preferred: str = "", *, grace_s: float = 0.0) -> None:
        self._preferred = preferred
        self._grace_s = grace_s
        self._links: dict[str, WorkerLink] = {}
        self._lost: dict[str, tuple[WorkerLink, float]] = {}  # with the time until which it counts
        self._chats: dict[tuple[str, tuple[str, ...]], ChatRenderer] = {}
        self.joins: Counter[tuple[str, str]] = Counter()
        """How often engines have joined, by kind and name of a model."""
        self.losses: Counter[tuple[str, str]] = Counter()
        """How often they have gone."""
        self._deployment: Deployment | None = None
        self._profile: Deployment | None = None

    def check(self, info: worker_pb2.WorkerInfo) -> None:
        """Refuse a worker whose description makes no sense. Raises ValueError."""
        if not info.worker_id or not info.address:
            raise ValueError("a worker must say its id and its address")
        others = (link for link in self if link.id != info.worker_id)
        keepers = {e.detail for link in others for e in link.info.engines if e.kind == "index"}
        for engine in info.engines:
            if engine.kind == "index" and keepers and engine.detail not in keepers:
                raise ValueError(
                    f"its indexes are kept by {engine.detail}, those of other workers by "
                    f"{' and '.join(sorted(keepers))}; give all of them the same `indexes` (WEFT_INDEXES)"
                )
            if engine.kind == "llm":
                self._model(engine)
            for tool in engine.tools:
                _tool(tool)

    def add(self, link: WorkerLink) -> None:
        """A worker has joined."""
        self._links[link.id] = link
        self._lost.pop(link.id, None)
        self.joins.update((engine.kind, engine.model) for engine in link.info.engines)
        self._changed()

    def remove(self, link: WorkerLink) -> None:
        """A worker is gone."""
        if self.get(link.id) is link:
            del self._links[link.id]
            self.losses.update((engine.kind, engine.model) for engine in link.info.engines)
            self._lost[link.id] = (link, time.monotonic() + self._grace_s)
            self._changed()

    def get(self, worker: str) -> WorkerLink | None:
        """The worker of that name, if it is there."""
        return self._links.get(worker)

    def __iter__(self) -> Iterator[WorkerLink]:
        return iter(self._links.values())

    def language_model(self, name: str) -> worker_pb2.LlmInfo | None:
        """The language model of that name, as the first worker to offer it describes it."""
        engines = (engine for engine in self._engines() if engine.kind == "llm" and engine.model == name)
        return next((engine.llm for engine in engines), None)

    def offers(self, kind: str, model: str = "") -> bool:
        """Whether a worker has such an engine, with that model if one is named."""
        return any(e.kind == kind and model in ("", e.model) for e in self._engines())

    def update_indexes(self, link: WorkerLink, names: Iterable[str]) -> None:
        """A worker has these indexes too."""
        if not link.indexes.issuperset(names):
            link.indexes.update(names)
            self._deployment = None

    def origin(self, op: Op) -> str:
        """What computes a primitive: its model, and how often a worker has joined that offers it."""
        default = {"embed": self.deployment.embedder, "rerank": self.deployment.reranker}.get(op.kind, "")
        name = getattr(op, "model", "") or default
        return f"{name}@{self.joins[op.kind, name]}"

    def missing(self, graph: Graph) -> tuple[Node, str] | None:
        """The first node of the graph that needs a kind of engine which nobody offers, and that kind."""
        offered = {engine.kind for engine in self._engines()}
        for node in every_node(graph):
            for kind in _kinds(node.op, self.deployment):
                if kind not in offered:
                    return node, kind
        return None

    @property
    def embedders(self) -> list[str]:
        """The names of the models that embed."""
        return sorted({engine.model for engine in self._engines() if engine.kind == "embed"})

    @property
    def deployment(self) -> Deployment:
        """What the workers offer, or have offered until lately."""
        self._forget_lost()
        if self._deployment is None:
            self._deployment = self._describe()
        return self._deployment

    @property
    def profile(self) -> Deployment:
        """The same without what comes and goes while programs run: what programs are compiled for."""
        self._forget_lost()
        if self._profile is None:
            self._profile = replace(self._describe(), indexes=frozenset())
        return self._profile

    def _describe(self) -> Deployment:
        engines = self._engines()
        rising = engines[::-1]  # the first to offer a name counts
        models = {engine.model: self._model(engine) for engine in rising if engine.kind == "llm"}
        default = self._preferred if self._preferred in models else _first(engines, "llm")
        return Deployment(
            models=models,
            default_model=default,
            indexes=frozenset(name for link in self._counted() for name in link.indexes),
            tools={tool.name: _tool(tool) for engine in rising for tool in engine.tools},
            embedder=_first(engines, "embed"),
            reranker=_first(engines, "rerank"),
            batches={e.kind: e.efficient_batch for e in rising if e.efficient_batch},
            item_ms={e.kind: e.item_ms for e in rising if e.efficient_batch},
            processors={e.kind: e.processor for e in rising if e.kind != "llm" and e.processor},
        )

    def _changed(self) -> None:
        self._deployment = self._profile = None

    def _engines(self) -> list[worker_pb2.EngineInfo]:
        return [engine for link in self._counted() for engine in link.info.engines]

    def _counted(self) -> list[WorkerLink]:
        """The workers that are there, then those that were lost lately."""
        self._forget_lost()
        return [*self, *(link for link, _ in self._lost.values())]

    def _forget_lost(self) -> None:
        now = time.monotonic()
        over = [worker for worker, (_, until) in self._lost.items() if until <= now]
        for worker in over:
            del self._lost[worker]
            self._changed()

    def _model(self, engine: worker_pb2.EngineInfo) -> ModelSpec:
        llm = engine.llm
        chat = self._chat(llm) if llm.chat_template else None
        costs = costs_of(llm.profile)
        return ModelSpec(engine.model, llm.context_length, chat, llm.tokenizer, costs, engine.processor)

    def _chat(self, llm: worker_pb2.LlmInfo) -> ChatRenderer:
        key = (llm.chat_template, tuple(llm.control_tokens))
        if key not in self._chats:
            if len(self._chats) >= _CHAT_CACHE:
                self._chats.clear()
            self._chats[key] = TemplateRenderer(*key)
        return self._chats[key]


def _first(engines: Iterable[worker_pb2.EngineInfo], kind: str) -> str:
    return next((engine.model for engine in engines if engine.kind == kind), "")


def _tool(tool: worker_pb2.ToolInfo) -> ToolSpec:
    return ToolSpec(tool.name, decode_type(tool.result), tool.idempotent, tool.pure)


def _kinds(op: Op, deployment: Deployment) -> tuple[str, ...]:
    """The engines that an operation of users needs."""
    match op:
        case Generate() | Select() | Probe():
            return ("llm",)
        case Search() | Ingest():
            return ("index", "embed")
        case Neighbours():
            return ("index",)
        case Embed():
            return ("embed",)
        case Rerank():
            return ("rerank",) if deployment.reranker else ("llm",)
        case Tool(where="server"):
            return ("tool",)
        case _:
            return ()
