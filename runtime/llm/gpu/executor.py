"""Runs steps on a device: the model, its KV pool, the page table there, and graphs of steps."""

from __future__ import annotations

import torch

from weft.kernels.extend import ExtendBatch
from weft.kernels.shared_prefix import SharedPlan
from weft.kernels.tables import KVTable
from weft.runtime.kv.pool import KVPool

from .device_model import DeviceModel, Forward
from .graphs import DecodeGraphs
from .prompt_graphs import PromptGraphs
from .sharing import heads
from .staging import Staging
from .steps import Change, DecodeStep, MixedStep, Reservation, Step
from .table import Pages
from .warmup import warm_up

__all__ = ["Executor"]


class Executor:
    """One device's part of a runner. All ranks of a model run the same steps in the same order."""

    def __init__(self, model: DeviceModel, reservation: Reservation) -> None:
        """Reserve the pool; on CUDA, compile what steps need, and capture steps."""
        self._model = model
        self._device = model.device
        slots = reservation.slots
        self._whole = whole = model.allocate_pool(slots + 1)  # the last slot is written by what pads a batch
        self.pool = KVPool(whole.keys[:, :slots], whole.values[:, :slots])
        self._pages = Pages(reservation.rows, reservation.width, model.device)
        self._staging = Staging(model.device)
        self.graphs: DecodeGraphs | None = None
        self._prompt_graphs: PromptGraphs | None = None
        if model.device.type == "cuda":
            warm_up(model, whole, self._pages)
            if reservation.graphs:
                self.graphs = DecodeGraphs(
                    model, whole, self._pages, reservation.graphs, sharing=reservation.sharing
                )
                # Behind them, as it can do without.
                self._prompt_graphs = PromptGraphs(model, whole, self._pages, reservation.tokens)

    def run(self, step: Step, ids: torch.Tensor | None = None) -> torch.Tensor:
        """Compute a step; float32 logits [rows, vocab], which the next one may overwrite.

        `ids`, int64 [tokens] on the device, are those of a step that is begun ahead. Where several processes
        share the model, rank 0 has them, and the logits.
        """
        if step.ahead:
            ids = self._model.comm.broadcast(ids, step.tokens.shape[1])
        match step:
            case DecodeStep():
                return self._decode(step, ids)
            case MixedStep():
                return self._compute(step, ids)

    def close(self) -> None:
        """Give back what was captured; no step may follow."""
        for graphs in (self.graphs, self._prompt_graphs):
            if graphs is not None:
                graphs.close()

    def _decode(self, step: DecodeStep, ids: torch.Tensor | None) -> torch.Tensor:
        assert self.graphs is not None, "no steps have been captured"
        self._change(step.change)
        return self.graphs.run(step.tokens, ids, sharing=step.sharing, cut=step.cut)

    def _change(self, change: Change) -> None:
        self._pages.fit(change.height)
        if len(change.at):
            self._pages.write(*self._staging.send([change.at, change.slots]))

    def _compute(self, step: MixedStep, ids: torch.Tensor | None) -> torch.Tensor:
        change, singles = step.change, len(step.lengths)
        self._pages.fit(change.height)
        if self._prompt_graphs is not None and self._prompt_graphs.has(step):
            self._change(change)
            return self._prompt_graphs.run(step)
        sent = self._staging.send(
            [
                *step.tokens,
                step.rows,
                step.lengths,
                step.starts,
                step.wanted,
                change.at,
                change.slots,
                step.cut,
            ]
        )
        d_ids, d_slots, d_positions, rows, lengths, starts, wanted, at, new, cut = sent
        self._pages.write(at, new)
        shared = None
        if step.capacity is not None:
            shared = SharedPlan.of(cut, step.capacity, group=heads(self._model.config)["group"])
        extend = None
        if singles < len(rows):
            extend = ExtendBatch(rows[singles:], starts, d_positions[singles:])
        forward = Forward(
            d_ids.long() if ids is None else ids,
            d_slots.long(),
            d_positions.long(),
            KVTable(self._pages.slots[:, : step.longest]),
            rows[:singles],
            lengths,
            extend,
            wanted.long(),
            shared,
        )
        return self._model.compute(forward, self._whole)
