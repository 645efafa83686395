"""Models that the modelling code of transformers computes, as an engine sees them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch.nn.functional import pad

from weft.kernels.attention import AttentionPlan, PagedBatch, paged_attention, plan_attention, store_kv
from weft.runtime.kv.pool import KVPool

from ..config import ModelShape
from ..gpu.device_model import DeviceModel, Forward, StepAttention
from ..model_base import Model
from .code import HostedCode
from .interface import LayerShape

__all__ = ["HostedDeviceModel", "HostedModel", "pool_shape"]


class HostedModel(Model):
    """Such a model on a CPU."""

    def __init__(self, config: ModelShape, code: HostedCode, *, name: str, dtype: torch.dtype) -> None:
        super().__init__(config, name=name, dtype=dtype, device=code.device)
        self.code = code

    def forward(
        self,
        ids: torch.Tensor,
        new_slots: torch.Tensor,
        batch: PagedBatch,
        pool: KVPool,
        logit_rows: torch.Tensor,
    ) -> torch.Tensor:
        """See `Model.forward`; keys are stored as the code gives them."""
        positions = torch.from_numpy(batch.positions).to(self.device)
        return self.code.run(ids, positions, logit_rows, _TiledAttend(pool, new_slots, batch))


class HostedDeviceModel(DeviceModel):
    """Such a model on a GPU, its attention by Triton kernels over tables on the device."""

    def __init__(self, config: ModelShape, code: HostedCode, *, name: str, dtype: torch.dtype) -> None:
        super().__init__(config, name=name, dtype=dtype, device=code.device)
        self.code = code
        groups = {(layer.heads, layer.kv_heads) for layer in code.layers}
        self.shares_prefixes = groups == {(config.heads, config.kv_heads)}

    def compute(self, step: Forward, pool: KVPool, out: torch.Tensor | None = None) -> torch.Tensor:
        """See `DeviceModel.compute`."""
        logits = self.code.run(step.ids, step.positions, step.wanted, _TableAttend(pool, step))
        return logits if out is None else out.copy_(logits)


@dataclass(frozen=True, slots=True)
class _TiledAttend:
    """An `Attend` by torch's fused attention."""

    pool: KVPool
    slots: torch.Tensor  # int64 [tokens]: where keys and values go
    batch: PagedBatch
    plans: dict[tuple[int, int | None], AttentionPlan] = field(default_factory=dict)

    def __call__(self, layer: LayerShape, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        keys, values = _store(self.pool, layer, k, v, self.slots)
        kind = layer.heads // layer.kv_heads, layer.window
        if kind not in self.plans:
            self.plans[kind] = plan_attention(
                self.batch, group=kind[0], window=layer.window, dtype=q.dtype, device=q.device
            )
        out = paged_attention(q, keys, values, self.plans[kind], scale=layer.scale, softcap=layer.softcap)
        return out[..., : layer.value_dim]


class _TableAttend:
    """An `Attend` by the kernels that read tables."""

    def __init__(self, pool: KVPool, step: Forward) -> None:
        self._pool, self._slots = pool, step.slots
        self._attend = StepAttention(step)

    def __call__(self, layer: LayerShape, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        keys, values = _store(self._pool, layer, k, v, self._slots)
        out = self._attend(q, keys, values, scale=layer.scale, window=layer.window, softcap=layer.softcap)
        return out[..., : layer.value_dim]


def pool_shape(layers: tuple[LayerShape, ...]) -> tuple[int, int]:
    """KV heads and head_dim of a pool for layers that may differ in them: then one head as wide as needed."""
    shapes = {(layer.kv_heads, layer.key_dim) for layer in layers}
    return shapes.pop() if len(shapes) == 1 else (1, max(heads * dim for heads, dim in shapes))


def _store(
    pool: KVPool, layer: LayerShape, k: torch.Tensor, v: torch.Tensor, slots: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Write a layer's keys and values into the pool; returns its part of it, [slots, kv_heads, key_dim] each.

    Values that are narrower than keys are filled up with zeros.
    """
    keys, values = (_part(side[layer.index], layer) for side in (pool.keys, pool.values))
    if layer.value_dim < layer.key_dim:
        v = pad(v, (0, layer.key_dim - layer.value_dim))
    store_kv(k, v, keys, values, slots)
    return keys, values


def _part(pool: torch.Tensor, layer: LayerShape) -> torch.Tensor:
    """What a layer uses of [slots, kv_heads, head_dim]: the beginning of each slot."""
    shape = (layer.kv_heads, layer.key_dim)
    return pool if pool.shape[1:] == shape else pool.flatten(1)[:, : shape[0] * shape[1]].view(-1, *shape)
