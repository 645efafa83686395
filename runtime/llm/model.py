"""The decoder-only transformer of the Llama, Mistral, Qwen2 and Qwen3 families over a paged KV pool."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.functional import embedding, linear

from weft.kernels.activation import silu_mul
from weft.kernels.attention import AttentionPlan, PagedBatch, paged_attention, plan_attention, store_kv
from weft.kernels.norm import add_rms_norm, rms_norm
from weft.kernels.rope import apply_rotary
from weft.runtime.kv.pool import KVPool

from .config import ModelConfig, read_config
from .loader import LayerWeights, Weights, choose_device, choose_dtype, load_weights, resolve_folder
from .rope import rotation_tables

__all__ = ["Model", "load_model"]


@dataclass(frozen=True, slots=True)
class _Step:
    """What all layers of one forward pass share."""

    new_slots: torch.Tensor  # int64 [tokens]
    cos: torch.Tensor  # float32 [tokens, 1, head_dim]
    sin: torch.Tensor
    attention: dict[int | None, AttentionPlan]  # by sliding window


class Model:
    """A checkpoint that can be run."""

    def __init__(self, config: ModelConfig, weights: Weights, *, name: str) -> None:
        self.config = config
        self.name = name
        self.dtype = weights.embedding.dtype
        self.device = weights.embedding.device
        self._weights = weights
        self._cos, self._sin = rotation_tables(
            config.rope, head_dim=config.head_dim, positions=config.context_length, device=self.device
        )
        self._scale = config.head_dim**-0.5

    @property
    def kv_bytes_per_token(self) -> int:
        """Memory of one token's keys and values."""
        c = self.config
        return KVPool.bytes_per_slot(
            layers=c.layers, kv_heads=c.kv_heads, head_dim=c.head_dim, dtype=self.dtype
        )

    def allocate_pool(self, slots: int) -> KVPool:
        """A KV pool of this model's shape."""
        c = self.config
        return KVPool.allocate(
            layers=c.layers,
            slots=slots,
            kv_heads=c.kv_heads,
            head_dim=c.head_dim,
            dtype=self.dtype,
            device=self.device,
        )

    @torch.inference_mode()
    def forward(
        self,
        ids: torch.Tensor,
        new_slots: torch.Tensor,
        batch: PagedBatch,
        pool: KVPool,
        logit_rows: torch.Tensor,
    ) -> torch.Tensor:
        """Compute the tokens `ids` (int64 [tokens]) at `batch.positions`, storing their KV in `new_slots`.

        Returns the logits that follow the tokens `logit_rows` (int64 [rows], indices into `ids`) as
        float32 [rows, vocab]; all of it on this model's device.
        """
        step = self._prepare(new_slots, batch)
        hidden = embedding(ids, self._weights.embedding)
        delta = torch.zeros_like(hidden)
        for layer, weights in enumerate(self._weights.layers):
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
        weights: LayerWeights,
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
        gated = silu_mul(linear(x, weights.gate_up, weights.gate_up_bias))
        return residual, linear(gated, weights.down, weights.down_bias)

    def _attention(
        self, index: int, weights: LayerWeights, x: torch.Tensor, step: _Step, pool: KVPool
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


def load_model(model: str | Path, *, dtype: str = "auto", device: str = "auto") -> Model:
    """Load a checkpoint from a folder or a hub name; raises `ModelError` with the reason if it cannot be."""
    folder = resolve_folder(model)
    config = read_config(folder)
    chosen = choose_device(device)
    weights = load_weights(folder, config, dtype=choose_dtype(dtype, config, chosen), device=chosen)
    return Model(config, weights, name=folder.resolve().name)
