"""Runs a `DeviceModel` over chunks of sequences: one transfer to the device a step."""

from __future__ import annotations

import itertools
from collections.abc import Sequence as Seq
from functools import partial
from typing import Final, NamedTuple

import numpy as np
import torch

from weft.kernels.prefix_tree import SharedPrefixes
from weft.kernels.shared_prefix import Capacity, cut_shared
from weft.runtime.kv.pool import KVPool

from ..lookup import MOST_DRAFTED
from ..runner import Work
from ..sequence import Sequence
from .device_model import DeviceModel
from .executor import Executor
from .graphs import DecodeGraphs, sizes
from .sharing import Sharing, heads
from .steps import Change, DecodeStep, Ints, MixedStep, Reservation, Step
from .table import PageTable

__all__ = ["GpuRunner"]

_SPARE_ROWS: Final = 64  # of the table, for the options that are weighed beside the requests that run
_DRAFTED: Final = 1 + MOST_DRAFTED  # tokens of a sequence that decodes
_FEW: Final = (
    128  # tokens of prompts in a step: kernels that are started one by one take longer than their work
)
_PAIRS: Final = 1 << 20  # of such tokens and the keys before them: beyond, reading these takes longer

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
    """Turns chunks of sequences into steps, and keeps the account of the page table on the device.

    Where several processes share the model, this is that of rank 0; the others are told of each step.
    """

    def __init__(
        self,
        model: DeviceModel,
        slots: int,
        *,
        max_running: int = 64,
        token_budget: int = 2048,
        graphs: bool = True,
        sharing: bool = True,
    ) -> None:
        """Reserve the pool; with `graphs`, and on CUDA, capture steps of up to `max_running` decodes, and of
        up to `token_budget` tokens of prompts.

        With `sharing`, keys that several decodes of a step share are read once where that pays.
        """
        self.model = model
        self.max_running = max_running
        self._width = min(model.config.context_length, slots)
        self._table = PageTable(max_running + _SPARE_ROWS)
        sharing = sharing and model.shares_prefixes
        self._sharing = Sharing(model.config, model.dtype) if sharing else None
        most = max_running if graphs and model.capturable and model.device.type == "cuda" else 0
        self._sizes = sizes(most) if most else []
        self._planned: dict[int, SharedPrefixes] = {}  # what the graphs of each size have a plan of
        self._planned_height = self._table.height  # when the table grows, they lose it
        reservation = Reservation(slots, self._table.height, self._width, most, sharing, token_budget)
        self._executor: Executor = model.together(reservation, partial(Executor, model, reservation))

    @property
    def pool(self) -> KVPool:
        """The pool: this device's heads."""
        return self._executor.pool

    @property
    def shares_prefixes(self) -> bool:
        """See `Runner.shares_prefixes`."""
        return self._sharing is not None

    @property
    def graphs(self) -> DecodeGraphs | None:
        """The captured steps of this device, if there are any."""
        return self._executor.graphs

    def run(self, work: Seq[Work], logit_rows: Seq[int]) -> torch.Tensor:
        """See `Runner.run`."""
        if self._is_small(work):
            logits = self._decode([_Span.of(*one) for one in work])
            wanted = list(logit_rows)
            return logits if wanted == list(range(len(logits))) else logits[wanted]
        counts = [count for _, count in work]
        order = sorted(range(len(work)), key=lambda index: counts[index] > 1)  # single tokens first
        return self._compute([_Span.of(*work[index]) for index in order], _moved(logit_rows, counts, order))

    def run_ahead(self, sequences: Seq[Sequence], tokens: torch.Tensor) -> torch.Tensor:
        """Compute the tokens that follow on those of the last step, one a sequence, in slots they have.

        `tokens` are their ids, int64 [sequences] on the device, which the host need not know yet. Returns
        float32 logits [sequences, vocab].
        """
        spans = [_Span(sequence, sequence.computed + 1, sequence.computed + 2) for sequence in sequences]
        return self._decode(spans, tokens)

    def close(self) -> None:
        """See `Runner.close`."""
        self._executor.close()

    def _is_small(self, work: Seq[Work]) -> bool:
        """Whether a step is computed as one of single tokens, by a graph."""
        if self._size(sum(count for _, count in work)) is None:
            return False
        several = [(sequence, count) for sequence, count in work if count > 1]
        if all(count <= _DRAFTED for _, count in several):
            return True
        # Without sharing, each token would read all keys before it for itself.
        return (
            self._sharing is not None
            and sum(count for _, count in several) <= _FEW
            and sum(count * sequence.computed for sequence, count in several) <= _PAIRS
        )

    def _size(self, tokens: int) -> int | None:
        """Of the smallest graph that computes so many tokens; None: there is none."""
        return next((size for size in self._sizes if size >= tokens), None)

    def _decode(self, spans: Seq[_Span], ids: torch.Tensor | None = None) -> torch.Tensor:
        """A step of few tokens, by a graph if there is one; `ids` if the host does not know them.

        A graph computes single tokens. Several of a sequence are as many rows, each of which sees the keys
        of those before it, as a layer stores all keys before it attends to them.
        """
        counts = [span.size for span in spans]
        size = self._size(sum(counts))
        if size is None:
            return self._compute(spans, np.arange(sum(counts)), ids)
        rows = self._table.rows([span.sequence for span in spans])
        change = self._change([(span.sequence, span.start) for span in spans], rows)
        for span in spans:
            span.sequence.mirrored = span.end  # the graph sees to the new slots itself
        prefixes = self._shared(spans)
        cut = None if prefixes is None else self._cut(prefixes, size)
        tokens = np.stack([*_tokens(spans), np.repeat(rows, counts)])
        return self._run(DecodeStep(change, tokens, prefixes is not None, cut, ids is not None), ids)

    def _cut(self, prefixes: SharedPrefixes, size: int) -> Ints | None:
        """The plan of shared prefixes for the graph of a size; None: it has it."""
        if self._planned_height != self._table.height:
            self._planned_height = self._table.height
            self._planned.clear()
        if self._planned.get(size) is prefixes:
            return None
        self._planned[size] = prefixes
        of_model = heads(self.model.config)
        return cut_shared(prefixes, **of_model, capacity=Capacity.of(size, **of_model))[0]

    def _shared(self, spans: Seq[_Span]) -> SharedPrefixes | None:
        """What is read once for several of a step's tokens that are computed like decodes."""
        if self._sharing is None:
            return None
        return self._sharing.prefixes([span.sequence for span in spans], [span.size for span in spans])

    def _compute(self, spans: Seq[_Span], wanted: Ints, ids: torch.Tensor | None = None) -> torch.Tensor:
        singles = sum(span.size == 1 for span in spans)
        rows = self._table.rows([span.sequence for span in spans])
        ends = [span.end for span in spans]
        change = self._change([(span.sequence, span.end) for span in spans], rows)
        prefixes = self._shared(spans[:singles])
        cut, capacity = cut_shared(prefixes, **heads(self.model.config)) if prefixes else (_NONE, None)
        step = MixedStep(
            change,
            np.stack(_tokens(spans)),
            np.asarray(rows),
            lengths=np.asarray(ends[:singles], dtype=np.int64),
            starts=np.cumsum([0, *(span.size for span in spans[singles:])]),
            wanted=wanted,
            longest=max(ends),
            cut=cut,
            capacity=capacity,
            ahead=ids is not None,
        )
        return self._run(step, ids)

    def _run(self, step: Step, ids: torch.Tensor | None) -> torch.Tensor:
        return self.model.together(step, partial(self._executor.run, step, ids))

    def _change(self, ends: Seq[tuple[Sequence, int]], rows: Seq[int]) -> Change:
        """What the table lacks of the first slots of each sequence, up to an end."""
        at: list[Ints] = [_NONE]
        new: list[Ints] = [_NONE]
        for (sequence, end), row in zip(ends, rows, strict=True):
            first = sequence.mirrored
            if first < end:
                at.append(np.arange(row * self._width + first, row * self._width + end))
                new.append(sequence.slots[first:end])
                sequence.mirrored = end
        return Change(self._table.height, np.concatenate(at), np.concatenate(new))


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
