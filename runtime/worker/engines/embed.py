"""The engine of embeddings."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from weft.graph.ops.base import EngineKind
from weft.graph.values import VectorsValue
from weft.proto import worker_pb2
from weft.runtime.retrieval.embedder import Embedder, load_embedder
from weft.runtime.retrieval.errors import ModelError

from ..batcher import Batcher
from ..efficient_batch import SAMPLE, EfficientBatch, efficient_batch, timed
from ..processor import processor
from .base import Emit, Gauges, Operands, Outcome, StartError, Task
from .operands import texts_of

__all__ = ["EmbedEngine"]

_BATCH = 64  # primitives in one call; their texts are batched again by the model's library

Texts = tuple[str, ...]
Vectors = NDArray[np.float32]


class EmbedEngine:
    """Computes the embeddings of all texts that are queued together in one call."""

    kind: EngineKind = "embed"

    def __init__(self, spec: str | None, *, profile_s: float = 0.0) -> None:
        """`spec`: a sentence-transformers folder, or None for the built-in embedder.

        `profile_s`: the time that measuring its efficient batch may take; 0: it is not measured.
        """
        self._spec = spec
        self._profile_s = profile_s
        self._measured = EfficientBatch(0, 0.0)
        self._embedder: Embedder | None = None
        self._batcher: Batcher[Texts, Vectors] = Batcher(self._embed, limit=_BATCH, name="embed")

    @property
    def model(self) -> str:
        """The name of the vector space."""
        return self._embedder.name if self._embedder is not None else ""

    def info(self) -> worker_pb2.EngineInfo:
        """The model and its dimension."""
        assert self._embedder is not None, "the engine has not been started"
        detail = f"dimension {self._embedder.dimension}" + (", built-in" if self._spec is None else "")
        return worker_pb2.EngineInfo(
            kind=self.kind,
            model=self.model,
            detail=detail,
            capacity=_BATCH,
            efficient_batch=self._measured.items,
            item_ms=self._measured.item_ms,
            processor=processor(),
        )

    def gauges(self) -> Gauges:
        """Nothing: embeddings are not kept."""
        return Gauges()

    async def start(self) -> None:
        """Load the model. Raises StartError."""
        try:
            self._embedder = await asyncio.to_thread(load_embedder, self._spec)
        except ModelError as problem:
            raise StartError(f"embedder: {problem}") from problem
        if self._profile_s:
            self._measured = await asyncio.to_thread(self._measure, self._embedder)
        self._batcher.start()

    async def stop(self) -> None:
        """Cancel what is queued."""
        await self._batcher.stop()

    async def execute(self, task: Task, operands: Operands, emit: Emit) -> Outcome:
        """One matrix [texts, dimension]."""
        batched = await self._batcher.submit(texts_of(operands["texts"]))
        return Outcome((VectorsValue(batched.result),), batched.timing)

    def _measure(self, embedder: Embedder) -> EfficientBatch:
        return efficient_batch(timed(lambda items: embedder.embed([SAMPLE] * items)), self._profile_s)

    def _embed(self, items: Sequence[Texts]) -> list[Vectors]:
        assert self._embedder is not None, "the engine has not been started"
        vectors = self._embedder.embed([text for texts in items for text in texts])
        ends = np.cumsum([len(texts) for texts in items])
        return np.split(vectors, ends[:-1])
