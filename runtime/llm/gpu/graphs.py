"""CUDA graphs of decode steps: a step's hundreds of kernels are started by one call.

There are two graphs for a number of sequences: one reads all keys of each, the other reads shared prefixes
once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from weft.kernels.shared_prefix import Capacity, SharedPlan
from weft.kernels.tables import KVTable
from weft.runtime.kv.pool import KVPool

from .capture import capture
from .device_model import DeviceModel, Forward
from .sharing import heads
from .staging import Staging
from .table import IDLE, Pages

__all__ = ["DecodeGraphs", "sizes"]


class DecodeGraphs:
    """Steps in which every sequence computes one token, captured for some numbers of sequences."""

    def __init__(
        self, model: DeviceModel, pool: KVPool, pages: Pages, most: int, *, sharing: bool = True
    ) -> None:
        """Capture steps of up to `most` sequences; the pool's last slot is written by idle rows.

        With `sharing`, capture those that read shared prefixes once, too.
        """
        self._model = model
        self._pool = pool
        self._pages = pages
        self._staging = Staging(model.device)
        self._memory: Any = None
        self._graphs: dict[tuple[int, bool], _Graph] = {}
        self._variants = (True, False) if sharing else (False,)
        self._sizes = sizes(most)
        shape = (most, model.config.vocab_size)
        self._logits = torch.empty(shape, dtype=torch.float32, device=model.device)
        self._idle = np.array([0, pool.slots - 1, 0, IDLE])[:, None]
        self._capture()

    def close(self) -> None:
        """Give the graphs back; what NCCL has for them lives as long as they."""
        for captured in self._graphs.values():
            captured.graph.reset()
        self._graphs.clear()

    def graph_for(self, count: int, *, sharing: bool = False) -> _Graph:
        """The smallest that takes so many sequences."""
        return self._graphs[next(size for size in self._sizes if size >= count), sharing]

    def run(
        self,
        tokens: NDArray[np.int64],
        ids: torch.Tensor | None = None,
        *,
        sharing: bool = False,
        cut: NDArray[np.int64] | None = None,
    ) -> torch.Tensor:
        """Run a step: ids, slots, positions and rows [4, sequences]; `ids`, if given, are the true ones.

        With `sharing`, prefixes are read once: those that `cut` says, the numbers of a plan of the captured
        size, or if it is None those that the last such run of this size had.

        Returns float32 logits [sequences, vocab], which the next run overwrites.
        """
        if self._captured_for is not self._pages.slots:
            self._capture()
        count = tokens.shape[1]
        graph = self.graph_for(count, sharing=sharing)
        size = graph.tokens.shape[1]
        padded = np.concatenate([tokens, np.repeat(self._idle, size - count, axis=1)], axis=1)
        sent, *plan = self._staging.send([padded.ravel()] if cut is None else [padded.ravel(), cut])
        graph.tokens.copy_(sent.view(4, size))
        if plan:
            graph.plan.copy_(plan[0])
        if ids is not None:
            graph.tokens[0, :count].copy_(ids)
        graph.graph.replay()
        return self._logits[:count]

    def _capture(self) -> None:
        """The largest first, so that the others fit into its memory."""
        self.close()
        self._memory = torch.cuda.graph_pool_handle()
        for size in reversed(self._sizes):
            for sharing in self._variants:
                self._graphs[size, sharing] = self._record(size, sharing)
        self._captured_for = self._pages.slots

    def _record(self, size: int, sharing: bool) -> _Graph:
        device = self._model.device
        tokens = torch.from_numpy(np.repeat(self._idle, size, axis=1)).int().to(device)
        capacity = Capacity.of(size, **heads(self._model.config))
        plan = torch.zeros(capacity.numbers if sharing else 0, dtype=torch.int32, device=device)
        shared = SharedPlan.of(plan, capacity, group=heads(self._model.config)["group"]) if sharing else None
        graph = capture(self._model, partial(self._step, tokens, shared), self._memory)
        return _Graph(graph, tokens, plan)

    @torch.inference_mode()
    def _step(self, tokens: torch.Tensor, shared: SharedPlan | None) -> None:
        ids, slots, positions, rows = tokens.unbind(0)
        self._pages.write(rows.long() * self._pages.width + positions, slots)
        lengths = torch.where(rows == IDLE, 0, positions + 1).int()
        table = KVTable(self._pages.slots)
        forward = Forward(ids.long(), slots.long(), positions.long(), table, rows, lengths, shared=shared)
        self._model.compute(forward, self._pool, out=self._logits[: len(rows)])


@dataclass(slots=True, eq=False)
class _Graph:
    """A captured step, and what it reads."""

    graph: torch.cuda.CUDAGraph
    tokens: torch.Tensor  # int32 [4, sequences]
    plan: torch.Tensor  # int32: the numbers of a `SharedPlan`; none if it shares nothing


def sizes(most: int) -> list[int]:
    """The numbers of sequences that are captured: each at most an eighth, or eight, above the one before."""
    found = [1, 2, 4, 8]
    while found[-1] < most:
        found.append(found[-1] + max(found[-1] // 8 // 8 * 8, 8))
    return [*(size for size in found if size < most), most]
