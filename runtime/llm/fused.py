"""The decoder-only transformer of the families that weft has code for, by its kernels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import embedding, linear

from weft.kernels.activation import silu_mul
from weft.kernels.attention import AttentionPlan, PagedBatch, paged_attention, plan_attention, store_kv
from weft.kernels.experts import mix_experts
from weft.kernels.norm import add_rms_norm, rms_norm
from weft.kernels.rope import apply_rotary
from weft.runtime.kv.pool import KVPool

from .config import ModelConfig
from .loader import LayerWeights, Weights
from .mixture import choose_experts
from .model_base import Model
from .rope import rotation_tables

__all__ = ["FusedModel"]


@dataclass(frozen=True, slots=True)
class _Step:
    """What all layers of one forward pass share."""

    new_slots: torch.Tensor  # int64 [tokens]
    cos: torch.Tensor  # float32 [tokens, 1, head_dim]
    sin: torch.Tensor
    attention: dict[int | None, AttentionPlan]  # by sliding window


class FusedModel(Model):
    """A checkpoint that is run by the operations of `weft.kernels`."""

    config: ModelConfig

    def __init__(self, config: ModelConfig, weights: Weights[torch.Tensor], *, name: str) -> None:
        super().__init__(config, name=name, dtype=weights.embedding.dtype, device=weights.embedding.device)
        self._weights = weights
        self._layers = tuple(weights.layers)
        self._cos, self._sin = rotation_tables(
            config.rope, head_dim=config.head_dim, positions=config.context_length, device=self.device
        )
        self._scale = config.head_dim**-0.5

    @torch.inference_mode()
    def forward(
        self,
        ids: torch.Tensor,
        new_slots: torch.Tensor,
        batch: PagedBatch,
        pool: KVPool,
        logit_rows: torch.Tensor,
    ) -> torch.Tensor:
        """See `Model.forward`; keys are stored rotated."""
        step = self._prepare(new_slots, batch)
        hidden = embedding(ids, self._weights.embedding)
        delta = torch.zeros_like(hidden)
        for layer, weights in enumerate(self._layers):
            hidden, delta = self._layer(layer, weights, hidden, delta, step, pool)
        final, _ = add_rms_norm(
            hidden[logit_rows], delta[logit_rows], self._weights.norm, self.config.norm_eps
        )
        return linear(final, self._weights.head).float()

    def _prepare(self, new_slots: torch.Tensor, batch: PagedBatch) -> _Step:
        positions = torch.from_numpy(batch.positions).to(self.device)
        plans = {
            window: plan_attention(
                batch, group=self.config.group, window=window, dtype=self.dtype, device=self.device
            )
            for window in set(self.config.windows)
        }
        return _Step(new_slots, self._cos[positions], self._sin[positions], plans)

    def _layer(
        self,
        index: int,
        weights: LayerWeights[torch.Tensor],
        residual: torch.Tensor,
        delta: torch.Tensor,
        step: _Step,
        pool: KVPool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One decoder layer: the residual stream [tokens, hidden], and what is still to be added to it."""
        eps = self.config.norm_eps
        x, residual = add_rms_norm(delta, residual, weights.input_norm, eps)
        attended = self._attention(index, weights, x, step, pool)
        x, residual = add_rms_norm(
            linear(attended, weights.out, weights.out_bias), residual, weights.post_norm, eps
        )
        return residual, self._feed_forward(weights, x)

    def _feed_forward(self, weights: LayerWeights[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        experts = self.config.experts
        if experts is None or weights.router is None:
            gated = silu_mul(linear(x, weights.gate_up, weights.gate_up_bias))
            return linear(gated, weights.down, weights.down_bias)
        routing = choose_experts(linear(x, weights.router), experts)
        return mix_experts(x, weights.gate_up, weights.down, routing)

    def _attention(
        self, index: int, weights: LayerWeights[torch.Tensor], x: torch.Tensor, step: _Step, pool: KVPool
    ) -> torch.Tensor:
        """Self-attention of `x` [tokens, hidden] before the output projection: [tokens, heads * head_dim]."""
        c = self.config
        heads = linear(x, weights.qkv, weights.qkv_bias).view(-1, c.heads + 2 * c.kv_heads, c.head_dim)
        qk, v = heads.tensor_split([c.heads + c.kv_heads], dim=1)
        if weights.qk_norm is not None:
            qk = rms_norm(qk, weights.qk_norm, c.norm_eps)
        q, k = apply_rotary(qk, step.cos, step.sin).tensor_split([c.heads], dim=1)
        keys, values = pool.keys[index], pool.values[index]
        store_kv(k, v, keys, values, step.new_slots)
        plan = step.attention[c.windows[index]]
        return paged_attention(q, keys, values, plan, scale=self._scale).flatten(1)
