"""Runs a `GpuModel` over chunks of sequences: one transfer to the device a step."""

from __future__ import annotations

import itertools
from collections.abc import Sequence as Seq
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from weft.kernels.extend import ExtendBatch
from weft.kernels.tables import KVTable
from weft.runtime.kv.pool import KVPool

from ..runner import Work
from ..sequence import Sequence
from .graphs import DecodeGraphs
from .model import GpuModel, Step
from .staging import Staging
from .table import PageTable

__all__ = ["GpuRunner"]

_SPARE_ROWS: Final = 64  # of the table, for the options that are weighed beside the requests that run

Ints = NDArray[np.int64]

_NONE: Final[Ints] = np.empty(0, dtype=np.int64)


class GpuRunner:
    """A model, its KV pool, and a table of the pool's slots on the device."""

    def __init__(self, model: GpuModel, slots: int, *, max_running: int = 64, graphs: bool = True) -> None:
        """Reserve the pool; with `graphs`, and on CUDA, capture steps of up to `max_running` decodes."""
        self.model = model
        whole = model.allocate_pool(slots + 1)
        self.pool = KVPool(whole.keys[:, :slots], whole.values[:, :slots])
        self._whole = whole  # the last slot is written by what pads a batch
        width = min(model.config.context_length, slots)
        self._table = PageTable(max_running + _SPARE_ROWS, width, model.device)
        self._staging = Staging(model.device)
        self._graphs = None
        if graphs and model.device.type == "cuda":
            self._graphs = DecodeGraphs(model, whole, self._table, max_running)

    def run(self, work: Seq[Work], logit_rows: Seq[int]) -> torch.Tensor:
        """See `Runner.run`."""
        order = sorted(range(len(work)), key=lambda index: work[index][1] > 1)  # single tokens first
        ordered = [work[index] for index in order]
        rows = self._table.rows([sequence for sequence, _ in ordered])
        singles = sum(count == 1 for _, count in work)
        ids, slots, positions = _tokens(ordered)
        if self._graphs is not None and singles == len(work):
            logits = self._decode(ordered, rows, ids, slots, positions)
            if logits is not None:
                return logits if list(logit_rows) == list(range(len(work))) else logits[list(logit_rows)]
        wanted = _moved(logit_rows, [count for _, count in work], order)
        return self._compute(ordered, rows, singles, ids, slots, positions, wanted)

    def _decode(
        self, work: Seq[Work], rows: Seq[int], ids: Ints, slots: Ints, positions: Ints
    ) -> torch.Tensor | None:
        """A step of decodes by a graph, which mirrors their new slots itself; None if there is none."""
        graphs = self._graphs
        if graphs is None or not graphs.covers(len(work)):
            return None
        at, new = self._mirror([(sequence, sequence.computed) for sequence, _ in work], rows)
        if len(at):
            self._write_table(*self._staging.send([at, new]))
        for sequence, _ in work:
            sequence.mirrored = sequence.computed + 1
        return graphs.run(np.stack([ids, slots, positions, np.asarray(rows)]))

    def _compute(
        self,
        work: Seq[Work],
        rows: Seq[int],
        singles: int,
        ids: Ints,
        slots: Ints,
        positions: Ints,
        wanted: Ints,
    ) -> torch.Tensor:
        ends = [sequence.computed + count for sequence, count in work]
        at, new = self._mirror([(sequence, end) for (sequence, _), end in zip(work, ends, strict=True)], rows)
        starts = np.cumsum([0, *(count for _, count in work[singles:])])
        lengths = np.asarray(ends[:singles], dtype=np.int64)
        sent = self._staging.send([ids, slots, positions, np.asarray(rows), lengths, starts, wanted, at, new])
        d_ids, d_slots, d_positions, d_rows, d_lengths, d_starts, d_wanted, d_at, d_new = sent
        self._write_table(d_at, d_new)
        extend = None
        if singles < len(work):
            extend = ExtendBatch(d_rows[singles:], d_starts, d_positions[singles:])
        step = Step(
            d_ids.long(),
            d_slots.long(),
            d_positions.long(),
            KVTable(self._table.pages[:, : max(ends)]),
            d_rows[:singles],
            d_lengths,
            extend,
            d_wanted.long(),
        )
        return self.model.compute(step, self._whole)

    def _mirror(self, ends: Seq[tuple[Sequence, int]], rows: Seq[int]) -> tuple[Ints, Ints]:
        """What the table lacks of the first slots of each sequence, up to an end: where, and which slots."""
        at: list[Ints] = [_NONE]
        new: list[Ints] = [_NONE]
        for (sequence, end), row in zip(ends, rows, strict=True):
            first = sequence.mirrored
            if first < end:
                at.append(np.arange(row * self._table.width + first, row * self._table.width + end))
                new.append(sequence.slots[first:end])
                sequence.mirrored = end
        return np.concatenate(at), np.concatenate(new)

    def _write_table(self, at: torch.Tensor, slots: torch.Tensor) -> None:
        self._table.pages.view(-1)[at.long()] = slots


def _tokens(work: Seq[Work]) -> tuple[Ints, Ints, Ints]:
    """Ids, slots and positions of the tokens to be computed."""
    spans = [(sequence, sequence.computed, sequence.computed + count) for sequence, count in work]
    return (
        np.concatenate([sequence.tokens[start:end] for sequence, start, end in spans]),
        np.concatenate([sequence.slots[start:end] for sequence, start, end in spans]),
        np.concatenate([np.arange(start, end) for _, start, end in spans]),
    )


def _moved(tokens: Seq[int], counts: Seq[int], order: Seq[int]) -> Ints:
    """Tokens that are counted through chunks of `counts` tokens, counted through the same ones in `order`."""
    before = np.cumsum([0, *counts])
    after = dict(zip(order, itertools.accumulate([0, *(counts[index] for index in order)]), strict=False))
    shift = np.concatenate([np.full(count, after[n] - before[n]) for n, count in enumerate(counts)])
    wanted = np.asarray(tokens, dtype=np.int64)
    moved: Ints = wanted + shift[wanted]
    return moved
