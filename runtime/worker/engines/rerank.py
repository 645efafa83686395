"""The engine of cross-encoders."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from weft.graph.ops.base import EngineKind
from weft.graph.values import Json, render
from weft.proto import worker_pb2
from weft.runtime.retrieval.errors import ModelError
from weft.runtime.retrieval.rerank import CrossEncoderReranker, Reranker, top_k

from ..batcher import Batcher
from ..efficient_batch import SAMPLE, EfficientBatch, efficient_batch, timed
from ..faults import invalid_arguments
from ..processor import processor
from .base import Emit, Gauges, Operands, Outcome, StartError, Task
from .operands import count_of, passages_of

__all__ = ["RerankEngine"]

_BATCH = 32  # primitives in one call

Pairs = tuple[tuple[str, str], ...]
Scores = NDArray[np.float32]


class RerankEngine:
    """Scores all pairs of query and passage that are queued together in one call."""

    kind: EngineKind = "rerank"

    def __init__(self, path: str, reranker: Reranker | None = None, *, profile_s: float = 0.0) -> None:
        """`path`: a cross-encoder's folder, loaded at the start unless a `reranker` is given.

        `profile_s`: the time that measuring its efficient batch may take; 0: it is not measured.
        """
        self._profile_s = profile_s
        self._measured = EfficientBatch(0, 0.0)
        self._path = path
        self._reranker = reranker
        self._batcher: Batcher[Pairs, Scores] = Batcher(self._score, limit=_BATCH, name="rerank")

    @property
    def model(self) -> str:
        """The model's name."""
        return self._reranker.name if self._reranker is not None else ""

    def info(self) -> worker_pb2.EngineInfo:
        """The model."""
        return worker_pb2.EngineInfo(
            kind=self.kind,
            model=self.model,
            detail="cross-encoder",
            capacity=_BATCH,
            efficient_batch=self._measured.items,
            item_ms=self._measured.item_ms,
            processor=processor(),
        )

    def gauges(self) -> Gauges:
        """Nothing: scores are not kept."""
        return Gauges()

    async def start(self) -> None:
        """Load the model. Raises StartError."""
        try:
            reranker = self._reranker
            if reranker is None:
                reranker = await asyncio.to_thread(CrossEncoderReranker, self._path)
        except ModelError as problem:
            raise StartError(f"reranker: {problem}") from problem
        if self._profile_s:
            self._measured = await asyncio.to_thread(self._measure, reranker)
        self._reranker = reranker
        self._batcher.start()

    async def stop(self) -> None:
        """Cancel what is queued."""
        await self._batcher.stop()

    async def execute(self, task: Task, operands: Operands, emit: Emit) -> Outcome:
        """The best passages."""
        query, passages = render(operands["query"]), passages_of(operands["passages"])
        count = count_of(operands, "k")
        batched = await self._batcher.submit(tuple((query, passage.text) for passage in passages))
        with invalid_arguments():
            best = top_k(passages, batched.result, count)
        return Outcome((Json([passage.to_json() for passage in best]),), batched.timing)

    def _measure(self, reranker: Reranker) -> EfficientBatch:
        return efficient_batch(
            timed(lambda items: reranker.score([(SAMPLE, SAMPLE)] * items)), self._profile_s
        )

    def _score(self, items: Sequence[Pairs]) -> list[Scores]:
        assert self._reranker is not None, "the engine has not been started"
        scores = self._reranker.score([pair for pairs in items for pair in pairs])
        ends = np.cumsum([len(pairs) for pairs in items])
        return np.split(scores, ends[:-1])
