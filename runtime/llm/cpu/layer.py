"""One decoder layer on a CPU."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import silu

from ..config import ModelConfig
from ..loader import LayerWeights
from .attention import Tile
from .linear import Linear
from .mixture import Mixture

__all__ = ["Layer", "Norm", "Step", "Workspace", "scaled"]


@dataclass(frozen=True, slots=True)
class Step:
    """What all layers of one forward pass share."""

    new_slots: torch.Tensor  # int64 [tokens]
    rotations: torch.Tensor  # complex64 [tokens, 1, head_dim / 2]
    mode: int  # how the step's matrix products are computed
    threads: int  # which of the model's numbers of threads they take


class Norm:
    """RMS norm without weights and without the factor sqrt(dim): `scaled` multiplies both into a matrix."""

    def __init__(self, dim: int, eps: float) -> None:
        self._floor = torch.tensor(math.sqrt(dim * eps))

    def __call__(
        self, x: torch.Tensor, length: torch.Tensor | None = None, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """x / sqrt(sum(x²) + dim·eps) over the last dimension; `length` [..., 1] and `out` are outputs."""
        length = torch.linalg.vector_norm(x, 2, -1, True, out=length)
        return torch.div(x, length.hypot_(self._floor), out=out)


def scaled(matrix: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
    """`matrix` [out, dim] with the weights `norm` [dim] of the RMS norm before it multiplied in."""
    return matrix * (norm * math.sqrt(norm.numel()))


class Projected:
    """Views of what a layer attends with: [tokens, (heads + 2 * kv_heads) * head_dim]."""

    __slots__ = ("k", "q", "qk", "rotated", "v")

    def __init__(self, config: ModelConfig, qkv: torch.Tensor) -> None:
        heads = qkv.view(qkv.shape[0], -1, config.head_dim)
        self.qk = heads[:, : config.heads + config.kv_heads]
        self.q = heads[:, : config.heads]
        self.k = heads[:, config.heads : config.heads + config.kv_heads]
        self.v = heads[:, config.heads + config.kv_heads :]
        self.rotated = torch.view_as_complex(self.qk.view(*self.qk.shape[:2], -1, 2))


class Gated:
    """The two halves of what goes into the feed-forward's activation: [tokens, 2 * intermediate]."""

    __slots__ = ("gate", "up")

    def __init__(self, gate_up: torch.Tensor) -> None:
        self.gate, self.up = gate_up.chunk(2, dim=-1)


class Workspace:
    """The tensors that the layers of a step write into, one after the other."""

    def __init__(self, config: ModelConfig, tokens: int) -> None:
        width = config.heads * config.head_dim
        self.hidden = torch.empty(tokens, config.hidden_size)
        self.normed = torch.empty(tokens, config.hidden_size)
        self.length = torch.empty(tokens, 1)
        self.qkv = torch.empty(tokens, width + 2 * config.kv_heads * config.head_dim)
        self.projected = Projected(config, self.qkv)
        self.attended = torch.empty(tokens, width)
        self.attended_heads = self.attended.view(tokens, config.heads, config.head_dim)
        self.gate_up = torch.empty(tokens, 2 * config.intermediate_size)
        self.gated = Gated(self.gate_up)
        self.active = torch.empty(tokens, config.intermediate_size)


class Layer:
    """The weights of a decoder layer, laid out for the CPU."""

    def __init__(self, config: ModelConfig, weights: LayerWeights[torch.Tensor]) -> None:
        self._config = config
        order = _head_order(config)
        scale = _head_scale(config)
        qkv = scaled(weights.qkv, weights.input_norm)[order]
        bias = None if weights.qkv_bias is None else weights.qkv_bias[order]
        self._qk_norm: torch.Tensor | None = None
        if weights.qk_norm is not None:
            pairs = _pairs(config.head_dim)
            factor = math.sqrt(config.head_dim) * scale[: config.heads + config.kv_heads]
            self._qk_norm = weights.qk_norm[:, pairs] * factor[:, None]
            self._head_norm = Norm(config.head_dim, config.norm_eps)
        else:
            rows = scale.repeat_interleave(config.head_dim)
            qkv = qkv * rows[:, None]
            bias = None if bias is None else bias * rows
        self._norm = Norm(config.hidden_size, config.norm_eps)
        self._qkv = Linear(qkv, bias)
        self._out = Linear(weights.out, weights.out_bias)
        gate_up = scaled(weights.gate_up, weights.post_norm)
        self._mixture: Mixture | None = None
        if config.experts is not None and weights.router is not None:
            router = scaled(weights.router, weights.post_norm)
            self._mixture = Mixture(config.experts, router, gate_up, weights.down)
        else:
            self._gate_up = Linear(gate_up, weights.gate_up_bias)
            self._down = Linear(weights.down, weights.down_bias)

    def matrices(self) -> Iterator[Linear]:
        """All matrices of the layer."""
        yield from (self._qkv, self._out)
        yield from (self._gate_up, self._down) if self._mixture is None else self._mixture.matrices()

    def run(
        self, work: Workspace, step: Step, tiles: Sequence[Tile], keys: torch.Tensor, values: torch.Tensor
    ) -> None:
        """Carry `work.hidden` [tokens, hidden] through the layer, in place; the pools get the step's KV."""
        mode = step.mode
        x = self._norm(work.hidden, work.length, work.normed)
        qkv = self._qkv(x, mode, work.qkv)
        heads = work.projected if qkv is work.qkv else Projected(self._config, qkv)
        if self._qk_norm is not None:
            heads.qk.copy_(self._head_norm(heads.qk).mul_(self._qk_norm))
        heads.rotated.mul_(step.rotations)
        keys.index_copy_(0, step.new_slots, heads.k)
        values.index_copy_(0, step.new_slots, heads.v)
        for tile in tiles:
            tile.attend(heads.q, keys, values, work.attended_heads)
        self._out.add_to(work.hidden, work.attended, mode)

        x = self._norm(work.hidden, work.length, work.normed)
        if self._mixture is not None:
            self._mixture.add_to(work.hidden, x, step.threads)
            return
        gate_up = self._gate_up(x, mode, work.gate_up)
        gated = work.gated if gate_up is work.gate_up else Gated(gate_up)
        torch.mul(silu(gated.gate, inplace=True), gated.up, out=work.active)
        self._down.add_to(work.hidden, work.active, mode)


def _pairs(dim: int) -> torch.Tensor:
    """The order of a head's numbers that makes neighbours of each pair rotated together, i and i + dim/2."""
    return torch.arange(dim).view(2, -1).t().flatten()


def _head_order(config: ModelConfig) -> torch.Tensor:
    """The order of the rows of the joint projection: queries and keys in pairs, values as they are."""
    heads = torch.arange((config.heads + 2 * config.kv_heads) * config.head_dim).view(-1, config.head_dim)
    rotated = config.heads + config.kv_heads
    return torch.cat([heads[:rotated, _pairs(config.head_dim)], heads[rotated:]]).flatten()


def _head_scale(config: ModelConfig) -> torch.Tensor:
    """The factor of each head: queries carry the scale of the attention."""
    scale = torch.ones(config.heads + 2 * config.kv_heads)
    scale[: config.heads] = config.head_dim**-0.5
    return scale
