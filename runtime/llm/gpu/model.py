"""The decoder-only transformer of the Llama, Mistral, Qwen2 and Qwen3 families on weft's GPU kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch.nn.functional import embedding, linear

from weft.kernels.activation import silu_mul
from weft.kernels.attention import PagedBatch
from weft.kernels.decode import DecodePlan, decode_attention, plan_decode
from weft.kernels.extend import ExtendBatch, extend_attention
from weft.kernels.heads import store_heads
from weft.kernels.norm import add_rms_norm, rms_norm
from weft.kernels.shared_prefix import SharedPlan
from weft.kernels.tables import KVTable, Rotary
from weft.runtime.kv.pool import KVPool

from ..config import ModelConfig
from ..loader import LayerWeights, Weights
from ..model_base import Model
from ..parallel.comm import ALONE, Communicator
from ..parallel.team import Team
from ..rope import rotations
from .steps import Census, Reservation, Step

__all__ = ["Forward", "GpuModel"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Forward:
    """One forward pass: first the tokens of sequences that compute just their last one, then all others.

    All tensors lie on the model's device. The host reads none, so a pass without `extend` can be captured.
    """

    ids: torch.Tensor  # int64 [tokens]
    slots: torch.Tensor  # int64 [tokens]: where their keys and values go
    positions: torch.Tensor  # int64 [tokens]
    table: KVTable
    rows: torch.Tensor  # int32 [decodes]: the table's row of each decode
    lengths: torch.Tensor  # int32 [decodes]: its keys, its own included; 0: an idle row
    extend: ExtendBatch | None = None  # the other tokens
    wanted: torch.Tensor | None = None  # int64 [rows]: the tokens whose logits are wanted; None: all
    shared: SharedPlan | None = None  # prefixes that are read for several decodes at once


class GpuModel(Model):
    """A checkpoint that is run by the operations of `weft.kernels`; keys are stored rotated.

    It may be one rank's part of a model: then its `config` has the heads and the inner width of the part, and
    all ranks compute each step together.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        *,
        name: str,
        comm: Communicator = ALONE,
    ) -> None:
        """Take over the weights; `comm` connects the ranks."""
        super().__init__(config, name=name, dtype=weights.embedding.dtype, device=weights.embedding.device)
        self.comm = comm
        self.team: Team | None = None
        """On rank 0 of several: the other ranks."""
        self._weights = weights
        self._layers = tuple(weights.layers)
        table = rotations(config.rope, head_dim=config.head_dim, positions=config.context_length)
        self._rotary = Rotary(table.real.float().to(self.device), table.imag.float().to(self.device))
        self._scale = config.head_dim**-0.5

    def together(self, order: Census | Reservation | Step, act: Callable[[], T]) -> T:
        """Do something that every rank must do, as `order` tells them. Raises ParallelError."""
        return act() if self.team is None else self.team.together(order, act)

    @property
    def ranks(self) -> int:
        """See `Model.ranks`."""
        return self.comm.shard.size

    def free_memory(self) -> int:
        """See `Model.free_memory`."""
        return self.together(Census(), lambda: self.comm.least(super(GpuModel, self).free_memory()))

    def check(self) -> None:
        """See `Model.check`."""
        if self.team is not None:
            self.team.check()

    def on_failure(self, listener: Callable[[], None]) -> None:
        """See `Model.on_failure`."""
        if self.team is not None:
            self.team.on_failure(listener)

    def close(self) -> None:
        """See `Model.close`."""
        if self.team is not None:
            self.team.close()

    def forward(
        self,
        ids: torch.Tensor,
        new_slots: torch.Tensor,
        batch: PagedBatch,
        pool: KVPool,
        logit_rows: torch.Tensor,
    ) -> torch.Tensor:
        """See `Model.forward`; `GpuRunner` calls `compute`, for which it need not make a table each time."""
        counts = np.asarray(batch.key_counts)
        pages = torch.zeros(len(counts), max(batch.key_counts), dtype=torch.int32)
        ends = counts.cumsum()
        for row, (start, end) in enumerate(zip(ends - counts, ends, strict=True)):
            pages[row, : end - start] = torch.from_numpy(batch.slots[start:end])
        positions = torch.from_numpy(batch.positions).to(self.device)
        starts = np.cumsum([0, *batch.query_counts]).tolist()

        def ints(values: list[int]) -> torch.Tensor:
            return torch.tensor(values, dtype=torch.int32, device=self.device)

        extend = ExtendBatch(ints(list(range(len(counts)))), ints(starts), positions.int())
        table = KVTable(pages.to(self.device))
        return self.compute(
            Forward(ids, new_slots, positions, table, ints([]), ints([]), extend, logit_rows), pool
        )

    @torch.inference_mode()
    def compute(self, step: Forward, pool: KVPool, out: torch.Tensor | None = None) -> torch.Tensor:
        """Store the KV of a step's tokens; returns float32 logits [rows, vocab], in `out` if it is given."""
        eps = self.config.norm_eps
        plans = self._plans(step)
        residual = embedding(step.ids, self._weights.embedding)
        delta: torch.Tensor | None = None
        for index, weights in enumerate(self._layers):
            if delta is None:
                x = rms_norm(residual, weights.input_norm, eps)
            else:
                x, residual = add_rms_norm(delta, residual, weights.input_norm, eps)
            attended = self._attention(index, weights, x, step, plans, pool)
            attended = self.comm.sum(linear(attended, weights.out, weights.out_bias))
            x, residual = add_rms_norm(attended, residual, weights.post_norm, eps)
            gated = silu_mul(linear(x, weights.gate_up, weights.gate_up_bias))
            delta = self.comm.sum(linear(gated, weights.down, weights.down_bias))
        assert delta is not None
        if step.wanted is not None:
            residual, delta = residual[step.wanted], delta[step.wanted]
        final, _ = add_rms_norm(delta, residual, self._weights.norm, eps)
        logits = self.comm.join(linear(final, self._weights.head), self.config.vocab_size)
        return logits.float() if out is None else out.copy_(logits)

    def _plans(self, step: Forward) -> dict[int | None, DecodePlan]:
        """How the decodes' keys are cut into work, by sliding window."""
        if not len(step.rows):
            return {}
        kv_heads = self.config.kv_heads
        return {
            window: plan_decode(step.lengths, step.rows, kv_heads=kv_heads, window=window, shared=step.shared)
            for window in set(self.config.windows)
        }

    def _attention(
        self,
        index: int,
        weights: LayerWeights,
        x: torch.Tensor,
        step: Forward,
        plans: dict[int | None, DecodePlan],
        pool: KVPool,
    ) -> torch.Tensor:
        """Self-attention of `x` [tokens, hidden] before the output projection: [tokens, heads * head_dim]."""
        c = self.config
        keys, values = pool.keys[index], pool.values[index]
        window = c.windows[index]
        q = store_heads(
            linear(x, weights.qkv, weights.qkv_bias).view(-1, c.heads + 2 * c.kv_heads, c.head_dim),
            keys,
            values,
            step.slots,
            qk_norm=weights.qk_norm,
            eps=c.norm_eps,
            rotary=self._rotary,
            positions=step.positions,
        )
        decodes, parts = len(step.rows), []
        if decodes:
            parts.append(
                decode_attention(q[:decodes], keys, values, step.table, plans[window], scale=self._scale)
            )
        if step.extend is not None:
            parts.append(
                extend_attention(
                    q[decodes:], keys, values, step.table, step.extend, scale=self._scale, window=window
                )
            )
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).flatten(1)
