"""CUDA graphs of decode steps: a step's hundreds of kernels are started by one call."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from weft.kernels.tables import KVTable
from weft.runtime.kv.pool import KVPool

from .model import GpuModel, Step
from .staging import Staging
from .table import IDLE, PageTable

__all__ = ["DecodeGraphs", "sizes"]

_WARM_UPS: Final = 2  # so that everything is compiled and allocated before it is captured


class DecodeGraphs:
    """Steps in which every sequence computes one token, captured for some numbers of sequences."""

    def __init__(self, model: GpuModel, pool: KVPool, table: PageTable, most: int) -> None:
        """Capture steps of up to `most` sequences; the pool's last slot is written by idle rows."""
        self._model = model
        self._pool = pool
        self._table = table
        self._staging = Staging(model.device)
        self._memory: Any = None
        self._graphs: dict[int, _Graph] = {}
        self._sizes = sizes(most)
        shape = (most, model.config.vocab_size)
        self._logits = torch.empty(shape, dtype=torch.float32, device=model.device)
        self._idle = np.array([0, pool.slots - 1, 0, IDLE])[:, None]
        self._capture()

    def covers(self, count: int) -> bool:
        """Whether there is a graph for so many sequences."""
        return count <= self._sizes[-1]

    def graph_for(self, count: int) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
        """The smallest that takes so many sequences."""
        return self._graphs[next(size for size in self._sizes if size >= count)]

    def run(self, tokens: NDArray[np.int64], ids: torch.Tensor | None = None) -> torch.Tensor:
        """Run a step: ids, slots, positions and rows [4, sequences]; `ids`, if given, are the true ones.

        Returns float32 logits [sequences, vocab], which the next run overwrites.
        """
        if self._pages is not self._table.pages:
            self._capture()
        count = tokens.shape[1]
        graph, inputs = self.graph_for(count)
        size = inputs.shape[1]
        padded = np.concatenate([tokens, np.repeat(self._idle, size - count, axis=1)], axis=1)
        (sent,) = self._staging.send([padded.ravel()])
        inputs.copy_(sent.view(4, size))
        if ids is not None:
            inputs[0, :count].copy_(ids)
        graph.replay()
        return self._logits[:count]

    def _capture(self) -> None:
        """The largest first, so that the others fit into its memory."""
        self._pages = self._table.pages
        self._graphs.clear()
        self._memory = torch.cuda.graph_pool_handle()
        for size in reversed(self._sizes):
            self._graphs[size] = self._captured(size)

    def _captured(self, size: int) -> _Graph:
        device = self._model.device
        tokens = torch.from_numpy(np.repeat(self._idle, size, axis=1)).int().to(device)
        stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch has no types for it
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                self._step(tokens)
        torch.cuda.current_stream(device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._memory):
            self._step(tokens)
        return _Graph(graph, tokens)

    @torch.inference_mode()
    def _step(self, tokens: torch.Tensor) -> None:
        ids, slots, positions, rows = tokens.unbind(0)
        at = rows.long() * self._table.width + positions
        self._pages.view(-1)[at] = slots
        lengths = torch.where(rows == IDLE, 0, positions + 1).int()
        step = Step(ids.long(), slots.long(), positions.long(), KVTable(self._pages), rows, lengths)
        self._model.compute(step, self._pool, out=self._logits[: len(rows)])


class _Graph(NamedTuple):
    """A captured step, and the tokens that it reads: int32 [4, sequences]."""

    graph: torch.cuda.CUDAGraph
    tokens: torch.Tensor


def sizes(most: int) -> list[int]:
    """The numbers of sequences that are captured: each at most an eighth, or eight, above the one before."""
    found = [1, 2, 4, 8]
    while found[-1] < most:
        found.append(found[-1] + max(found[-1] // 8 // 8 * 8, 8))
    return [*(size for size in found if size < most), most]
