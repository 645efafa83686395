"""The decoder-only transformer of the families that weft has code for, on its GPU kernels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import embedding, linear

from weft.kernels.heads import store_heads
from weft.kernels.norm import add_rms_norm, rms_norm
from weft.kernels.tables import Rotary
from weft.runtime.kv.pool import KVPool

from ..config import Experts, ModelConfig
from ..loader import LayerWeights, Weights
from ..parallel.comm import ALONE, Communicator
from ..rope import rotations
from ..source import Matrix
from .device_model import DeviceModel, Forward, StepAttention
from .feed_forward import FeedForward, feed_forward, warm_sizes
from .projection import Projection, project_by

__all__ = ["GpuModel"]


@dataclass(frozen=True, slots=True)
class _Layer:
    """A decoder layer, or a rank's part of it: see `LayerWeights`."""

    input_norm: torch.Tensor
    qkv: Projection
    qk_norm: torch.Tensor | None
    out: Projection
    post_norm: torch.Tensor
    feed_forward: FeedForward

    @classmethod
    def of(cls, weights: LayerWeights[Matrix], experts: Experts | None, *, fp8: bool) -> _Layer:
        """The layer with matrices as they are loaded or in 8 bits.

        Some of those that are in 16 are laid out by columns, which cuBLAS reads faster for few rows. On an
        H100, for 1 to 256 rows of Llama-3.1-8B, `out` then takes up to 14 % less time and `gate_up` 2 to 7 %
        less (at 8 rows 2 % more), at 512 and 1,024 rows 4 to 5 % more; it makes no difference to reading.
        """
        return cls(
            input_norm=weights.input_norm,
            qkv=project_by(weights.qkv, weights.qkv_bias, fp8=fp8),
            qk_norm=weights.qk_norm,
            out=project_by(weights.out, weights.out_bias, fp8=fp8, by_columns=True),
            post_norm=weights.post_norm,
            feed_forward=feed_forward(weights, experts, fp8=fp8),
        )


class GpuModel(DeviceModel):
    """A checkpoint that is run by the operations of `weft.kernels`; keys are stored rotated."""

    config: ModelConfig

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights[Matrix],
        *,
        name: str,
        comm: Communicator = ALONE,
        fp8: bool = False,
    ) -> None:
        """Take over the weights, or the part of them that a rank has; `comm` connects the ranks.

        `fp8`: keep the matrices of the layers in 8 bits. Raises `ModelError` if their widths do not allow it.
        """
        embedded = weights.embedding
        super().__init__(config, name=name, dtype=embedded.dtype, device=embedded.device, comm=comm)
        self._weights = weights
        self.fp8 = fp8
        """Whether the matrices of its layers are in 8 bits."""
        self.int4 = False
        """Whether some of them are in 4 bits."""
        layers = []
        for layer in weights.layers:
            layers.append(_Layer.of(layer, config.experts, fp8=fp8))
            self.int4 |= layer.int4
        self._layers = tuple(layers)
        table = rotations(config.rope, head_dim=config.head_dim, positions=config.context_length)
        self._rotary = Rotary(table.real.float().to(self.device), table.imag.float().to(self.device))
        self._scale = config.head_dim**-0.5
        if config.experts is not None:
            self.warm_sizes = warm_sizes(config.experts)

    @property
    def numbers(self) -> str:
        """See `Model.numbers`."""
        kept = "fp8 and " if self.fp8 else "int4 and " if self.int4 else ""
        return kept + super().numbers

    @torch.inference_mode()
    def compute(self, step: Forward, pool: KVPool, out: torch.Tensor | None = None) -> torch.Tensor:
        """See `DeviceModel.compute`."""
        eps = self.config.norm_eps
        attend = StepAttention(step)
        residual = embedding(step.ids, self._weights.embedding)
        delta: torch.Tensor | None = None
        for index, layer in enumerate(self._layers):
            if delta is None:
                x = rms_norm(residual, layer.input_norm, eps)
            else:
                x, residual = add_rms_norm(delta, residual, layer.input_norm, eps)
            attended = self._attention(index, layer, x, attend, pool)
            attended = self.comm.sum(layer.out(attended))
            x, residual = add_rms_norm(attended, residual, layer.post_norm, eps)
            delta = self.comm.sum(layer.feed_forward(x))
        assert delta is not None
        if step.wanted is not None:
            residual, delta = residual[step.wanted], delta[step.wanted]
        final, _ = add_rms_norm(delta, residual, self._weights.norm, eps)
        if self.ranks == 1:
            return _logits(final, self._weights.head, out)
        logits = self.comm.join(_logits(final, self._weights.head), self.config.vocab_size)
        return logits if out is None else out.copy_(logits)

    def _attention(
        self, index: int, layer: _Layer, x: torch.Tensor, attend: StepAttention, pool: KVPool
    ) -> torch.Tensor:
        """Self-attention of `x` [tokens, hidden] before the output projection: [tokens, heads * head_dim]."""
        c = self.config
        keys, values = pool.keys[index], pool.values[index]
        q = store_heads(
            layer.qkv(x).view(-1, c.heads + 2 * c.kv_heads, c.head_dim),
            keys,
            values,
            attend.step.slots,
            qk_norm=layer.qk_norm,
            eps=c.norm_eps,
            rotary=self._rotary,
            positions=attend.step.positions,
        )
        return attend(q, keys, values, scale=self._scale, window=c.windows[index]).flatten(1)


def _logits(x: torch.Tensor, head: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """Float32 logits [rows, vocab], in `out` if given; CUDA does not round them to the weights' type."""
    if x.is_cuda and x.dtype != torch.float32:
        return torch.mm(x, head.t(), out_dtype=torch.float32, out=out)
    logits = linear(x, head).float()
    return logits if out is None else out.copy_(logits)
