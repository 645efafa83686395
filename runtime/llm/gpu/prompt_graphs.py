"""CUDA graphs of steps that read some hundred tokens of prompts, and may write beside that.

Started one by one, a step's hundreds of kernels take the host longer than the device computes on so few
tokens: 19 instead of 8 ms for 192 tokens of an 8B model on an H100.

A graph takes a number of tokens of any sequences, each of which attends like a prompt, whatever it computes:
so texts that are written beside prompts read their keys at less than the device's speed, and share none.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from weft.kernels.extend import ExtendBatch
from weft.kernels.tables import KVTable
from weft.runtime.kv.pool import KVPool

from .capture import capture
from .device_model import DeviceModel, Forward
from .staging import Staging
from .steps import MixedStep
from .table import IDLE, Pages

__all__ = ["PromptGraphs", "sizes"]

_log = logging.getLogger(__name__)

_LEAST: Final = 64  # tokens
_APART: Final = 64  # tokens between sizes
_MOST: Final = 1024  # tokens, beyond which only a step that is full has a graph,
_FULL: Final = 2048  # and none if it takes more, which any host starts sooner than a device computes
_SEQUENCES: Final = (4, 64)  # as the tiles of attention depend on how many share the tokens
_WANTED: Final = 64  # tokens whose logits are computed


class PromptGraphs:
    """Steps of any sequences, captured for some numbers of tokens."""

    def __init__(self, model: DeviceModel, pool: KVPool, pages: Pages, most: int) -> None:
        """Capture steps of up to `most` tokens; the pool's last slot is written by what pads a step.

        Where memory is short, there are none.
        """
        self._model = model
        self._pool = pool
        self._pages = pages
        self._staging = Staging(model.device)
        self._sizes = sizes(most)
        self._graphs: dict[tuple[int, int], _Graph] = {}
        self._captured_for: torch.Tensor | None = None
        shape = (_WANTED, model.config.vocab_size)
        self._logits = torch.empty(shape, dtype=torch.float32, device=model.device)
        self._fit()

    def close(self) -> None:
        """Give the graphs back; what NCCL has for them lives as long as they."""
        for captured in self._graphs.values():
            captured.graph.reset()
        self._graphs.clear()

    def has(self, step: MixedStep) -> bool:
        """Whether there is a graph for a step, on the table as it is now."""
        self._fit()
        return not step.ahead and step.capacity is None and self._key(step) in self._graphs

    def run(self, step: MixedStep) -> torch.Tensor:
        """Compute a step that has a graph: float32 logits [rows, vocab], which the next run overwrites."""
        key = self._key(step)
        assert key is not None, "no such step is ever captured"
        graph = self._graphs[key]
        (sent,) = self._staging.send([graph.layout.pack(step, idle_slot=self._pool.slots - 1)])
        graph.numbers.copy_(sent)
        graph.graph.replay()
        return self._logits[: len(step.wanted)]

    def _key(self, step: MixedStep) -> tuple[int, int] | None:
        """The smallest capacity that has room for a step, of which it must not leave much idle."""
        count = step.tokens.shape[1]
        size = next((size for size in self._sizes if size >= count), None)
        sequences = next((most for most in _SEQUENCES if most >= len(step.rows)), None)
        if size is None or sequences is None or size - count >= _APART or len(step.wanted) > _WANTED:
            return None
        return size, sequences

    def _fit(self) -> None:
        """Capture anew if the table has become another one."""
        if self._captured_for is self._pages.slots:
            return
        self.close()
        torch.cuda.empty_cache()
        try:
            self._capture()
        except torch.OutOfMemoryError:
            if self._model.ranks > 1:
                raise  # all ranks must do the same
            _log.warning("there is no memory for CUDA graphs of steps with prompts, which will take longer")
            self.close()
        self._captured_for = self._pages.slots

    def _capture(self) -> None:
        """The largest first, so that the others fit into its memory."""
        memory: Any = torch.cuda.graph_pool_handle()
        for size in reversed(self._sizes):
            for sequences in _SEQUENCES:
                self._graphs[size, sequences] = self._record(_Layout(size, sequences), memory)

    def _record(self, layout: _Layout, memory: Any) -> _Graph:
        idle = layout.pack(None, idle_slot=self._pool.slots - 1)
        numbers = torch.from_numpy(idle).int().to(self._model.device)
        return _Graph(capture(self._model, lambda: self._step(layout, numbers), memory), layout, numbers)

    @torch.inference_mode()
    def _step(self, layout: _Layout, numbers: torch.Tensor) -> None:
        ids, slots, positions, rows, starts, wanted = torch.split(numbers, layout.sizes)
        none = rows[:0]
        forward = Forward(
            ids.long(),
            slots.long(),
            positions.long(),
            KVTable(self._pages.slots),
            none,
            none,
            ExtendBatch(rows, starts, positions),
            wanted.long(),
        )
        self._model.compute(forward, self._pool, out=self._logits)


@dataclass(frozen=True, slots=True)
class _Layout:
    """How the numbers of a step lie behind one another: for the capacity of a graph."""

    tokens: int
    sequences: int

    @property
    def sizes(self) -> list[int]:
        """Of ids, slots, positions; rows and starts of sequences; the tokens whose logits are wanted."""
        return [self.tokens, self.tokens, self.tokens, self.sequences, self.sequences + 1, _WANTED]

    def pack(self, step: MixedStep | None, *, idle_slot: int) -> NDArray[np.int64]:
        """The numbers of a step, filled up with tokens of no sequence and sequences of no token."""
        count = 0 if step is None else step.tokens.shape[1]
        numbers = np.zeros(sum(self.sizes), dtype=np.int64)
        ids, slots, positions, rows, starts, wanted = np.split(numbers, np.cumsum(self.sizes)[:-1])
        slots[:] = idle_slot
        rows[:] = IDLE
        starts[:] = count
        if step is not None:
            ids[:count], slots[:count], positions[:count] = step.tokens
            rows[: len(step.rows)] = step.rows
            singles = len(step.lengths)
            starts[:singles] = np.arange(singles)
            starts[singles : len(step.rows) + 1] = singles + step.starts
            wanted[: len(step.wanted)] = step.wanted
        return numbers


@dataclass(slots=True, eq=False)
class _Graph:
    """A captured step, and what it reads."""

    graph: torch.cuda.CUDAGraph
    layout: _Layout
    numbers: torch.Tensor  # int32


def sizes(most: int) -> list[int]:
    """The numbers of tokens that are captured, ascending, for steps of up to `most`."""
    found = {*range(_LEAST, min(most, _MOST) + 1, _APART)}
    return sorted(found | {most} if _LEAST <= most <= _FULL else found)
