"""Runs a `GpuModel` over chunks of sequences: one transfer to the device a step."""

from __future__ import annotations

import itertools
from collections.abc import Sequence as Seq
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from weft.kernels.extend import ExtendBatch
from weft.kernels.prefix_tree import SharedPrefixes
from weft.kernels.shared_prefix import SharedPlan, cut_shared
from weft.kernels.tables import KVTable
from weft.runtime.kv.pool import KVPool

from ..runner import Work
from ..sequence import Sequence
from .graphs import DecodeGraphs
from .model import GpuModel, Step
from .sharing import Sharing, heads
from .staging import Staging
from .table import PageTable
from .warmup import warm_up

__all__ = ["GpuRunner"]

_SPARE_ROWS: Final = 64  # of the table, for the options that are weighed beside the requests that run

Ints = NDArray[np.int64]

_NONE: Final[Ints] = np.empty(0, dtype=np.int64)


class _Span(NamedTuple):
    """The tokens of a sequence that a step computes."""

    sequence: Sequence
    start: int
    end: int

    @classmethod
    def of(cls, sequence: Sequence, count: int) -> _Span:
        """The next so many."""
        return cls(sequence, sequence.computed, sequence.computed + count)

    @property
    def size(self) -> int:
        """How many they are."""
        return self.end - self.start


class GpuRunner:
    """A model, its KV pool, and a table of the pool's slots on the device."""

    def __init__(
        self,
        model: GpuModel,
        slots: int,
        *,
        max_running: int = 64,
        graphs: bool = True,
        sharing: bool = True,
    ) -> None:
        """Reserve the pool; with `graphs`, and on CUDA, capture steps of up to `max_running` decodes.

        With `sharing`, keys that several decodes of a step share are read once where that pays.
        """
        self.model = model
        whole = model.allocate_pool(slots + 1)
        self.pool = KVPool(whole.keys[:, :slots], whole.values[:, :slots])
        self._whole = whole  # the last slot is written by what pads a batch
        width = min(model.config.context_length, slots)
        self._table = PageTable(max_running + _SPARE_ROWS, width, model.device)
        self._staging = Staging(model.device)
        self._sharing = Sharing(model.config, model.dtype) if sharing else None
        self._graphs = None
        if model.device.type == "cuda":
            warm_up(model, whole, self._table)
        if graphs and model.device.type == "cuda":
            self._graphs = DecodeGraphs(model, whole, self._table, max_running, sharing=sharing)

    def run(self, work: Seq[Work], logit_rows: Seq[int]) -> torch.Tensor:
        """See `Runner.run`."""
        counts = [count for _, count in work]
        order = sorted(range(len(work)), key=lambda index: counts[index] > 1)  # single tokens first
        spans = [_Span.of(*work[index]) for index in order]
        if counts.count(1) < len(counts):
            return self._compute(spans, _moved(logit_rows, counts, order))
        wanted = list(logit_rows)
        logits = self._decode(spans)
        return logits if wanted == list(range(len(spans))) else logits[wanted]

    def run_ahead(self, sequences: Seq[Sequence], tokens: torch.Tensor) -> torch.Tensor:
        """Compute the tokens that follow on those of the last step, one a sequence, in slots they have.

        `tokens` are their ids, int64 [sequences] on the device, which the host need not know yet. Returns
        float32 logits [sequences, vocab].
        """
        spans = [_Span(sequence, sequence.computed + 1, sequence.computed + 2) for sequence in sequences]
        return self._decode(spans, tokens)

    def _decode(self, spans: Seq[_Span], ids: torch.Tensor | None = None) -> torch.Tensor:
        """A step of single tokens, by a graph if there is one; `ids` if the host does not know them."""
        graphs = self._graphs
        if graphs is None or not graphs.covers(len(spans)):
            return self._compute(spans, np.arange(len(spans)), ids)
        rows = self._table.rows([span.sequence for span in spans])
        at, new = self._mirror([(span.sequence, span.start) for span in spans], rows)
        if len(at):
            self._write_table(*self._staging.send([at, new]))
        for span in spans:
            span.sequence.mirrored = span.end  # the graph sees to the new slots itself
        return graphs.run(np.stack([*_tokens(spans), np.asarray(rows)]), ids, self._shared(spans))

    def _shared(self, decodes: Seq[_Span]) -> SharedPrefixes | None:
        """What is read once for several of a step's decodes."""
        return self._sharing.prefixes([span.sequence for span in decodes]) if self._sharing else None

    def _compute(self, spans: Seq[_Span], wanted: Ints, ids: torch.Tensor | None = None) -> torch.Tensor:
        singles = sum(span.size == 1 for span in spans)
        rows = self._table.rows([span.sequence for span in spans])
        ends = [span.end for span in spans]
        at, new = self._mirror([(span.sequence, span.end) for span in spans], rows)
        starts = np.cumsum([0, *(span.size for span in spans[singles:])])
        lengths = np.asarray(ends[:singles], dtype=np.int64)
        prefixes = self._shared(spans[:singles])
        cut, capacity = cut_shared(prefixes, **heads(self.model.config)) if prefixes else (_NONE, None)
        sent = self._staging.send([*_tokens(spans), np.asarray(rows), lengths, starts, wanted, at, new, cut])
        d_ids, d_slots, d_positions, d_rows, d_lengths, d_starts, d_wanted, d_at, d_new, d_cut = sent
        self._write_table(d_at, d_new)
        shared = None
        if capacity is not None:
            shared = SharedPlan.of(d_cut, capacity, group=heads(self.model.config)["group"])
        extend = None
        if singles < len(spans):
            extend = ExtendBatch(d_rows[singles:], d_starts, d_positions[singles:])
        step = Step(
            d_ids.long() if ids is None else ids,
            d_slots.long(),
            d_positions.long(),
            KVTable(self._table.pages[:, : max(ends)]),
            d_rows[:singles],
            d_lengths,
            extend,
            d_wanted.long(),
            shared,
        )
        return self.model.compute(step, self._whole)

    def _mirror(self, ends: Seq[tuple[Sequence, int]], rows: Seq[int]) -> tuple[Ints, Ints]:
        """What the table lacks of the first slots of each sequence, up to an end: where, and which slots."""
        at: list[Ints] = [_NONE]
        new: list[Ints] = [_NONE]
        width = self._table.width
        for (sequence, end), row in zip(ends, rows, strict=True):
            first = sequence.mirrored
            if first < end:
                at.append(np.arange(row * width + first, row * width + end))
                new.append(sequence.slots[first:end])
                sequence.mirrored = end
        return np.concatenate(at), np.concatenate(new)

    def _write_table(self, at: torch.Tensor, slots: torch.Tensor) -> None:
        self._table.pages.view(-1)[at.long()] = slots


def _tokens(spans: Seq[_Span]) -> tuple[Ints, Ints, Ints]:
    """Ids, slots and positions of the tokens to be computed."""
    if all(span.size == 1 for span in spans):
        starts = [span.start for span in spans]
        ids = [span.sequence.tokens[span.start] for span in spans]
        slots = [span.sequence.slots[span.start] for span in spans]
        return np.array(ids), np.array(slots), np.array(starts)
    return (
        np.concatenate([span.sequence.tokens[span.start : span.end] for span in spans]),
        np.concatenate([span.sequence.slots[span.start : span.end] for span in spans]),
        np.concatenate([np.arange(span.start, span.end) for span in spans]),
    )


def _moved(tokens: Seq[int], counts: Seq[int], order: Seq[int]) -> Ints:
    """Tokens that are counted through chunks of `counts` tokens, counted through the same ones in `order`."""
    before = np.cumsum([0, *counts])
    after = dict(zip(order, itertools.accumulate([0, *(counts[index] for index in order)]), strict=False))
    shift = np.concatenate([np.full(count, after[n] - before[n]) for n, count in enumerate(counts)])
    wanted = np.asarray(tokens, dtype=np.int64)
    moved: Ints = wanted + shift[wanted]
    return moved
