"""The feed-forward layers of a model on the GPU: dense, or a mixture of experts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import linear

from weft.kernels.activation import silu_mul
from weft.kernels.experts import SIZES, Matrices, mix_experts
from weft.kernels.fp8 import Fp8Matrix

from ..config import Experts
from ..loader import LayerWeights
from ..mixture import choose_experts
from ..source import Matrix
from .projection import Projection, project_by

__all__ = ["FeedForward", "feed_forward", "warm_sizes"]


@dataclass(frozen=True, slots=True)
class Dense:
    """A layer that every token goes through."""

    gate_up: Projection
    down: Projection

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """What it gives for `x` [tokens, hidden], or a rank's summand of that."""
        return self.down(silu_mul(self.gate_up(x)))


@dataclass(frozen=True, slots=True)
class Mixture:
    """Experts, and the router that chooses among them: the same on all ranks, for they see the same."""

    experts: Experts
    router: torch.Tensor
    gate_up: Matrices
    down: Matrices

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """What it gives for `x` [tokens, hidden], or a rank's summand of that."""
        routing = choose_experts(linear(x, self.router), self.experts)
        return mix_experts(x, self.gate_up, self.down, routing)


FeedForward = Dense | Mixture


def feed_forward(weights: LayerWeights[Matrix], experts: Experts | None, *, fp8: bool) -> FeedForward:
    """That of a layer of a model with such `experts`, its matrices as they are or in 8 bits."""
    if experts is None or weights.router is None:
        return Dense(
            gate_up=project_by(weights.gate_up, weights.gate_up_bias, fp8=fp8, by_columns=True),
            down=project_by(weights.down, weights.down_bias, fp8=fp8),
        )
    assert isinstance(weights.gate_up, torch.Tensor)
    assert isinstance(weights.down, torch.Tensor)
    if not fp8:
        return Mixture(experts, weights.router, weights.gate_up, weights.down)
    return Mixture(experts, weights.router, Fp8Matrix.of(weights.gate_up), Fp8Matrix.of(weights.down))


def warm_sizes(experts: Experts) -> tuple[int, ...]:
    """Numbers of tokens, one for each way in which the experts' products are tiled."""
    count, places = experts.count + experts.shared, experts.chosen + experts.shared
    return (*(size * count // places for size in SIZES), SIZES[-1] * count // places + 1)
