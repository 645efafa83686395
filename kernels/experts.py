"""Mixtures of experts (Shazeer et al., arXiv:1701.06538): each token goes through a few of many layers."""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch.nn.functional import linear

from .activation import silu_mul
from .dispatch import kernel
from .fp8 import Fp8Matrix, fp8_linear

__all__ = ["SIZES", "Matrices", "Routing", "mix_experts", "route"]

SIZES: Final = (8, 24, 64)
"""Tokens of an expert, on average, up to each of which a GPU's products are tiled alike."""

Matrices = torch.Tensor | Fp8Matrix
"""A matrix of each expert, [experts, out, in], as they are or in 8 bits."""


class Routing(NamedTuple):
    """The experts that each token goes through, and the factors of what they give."""

    experts: torch.Tensor  # int32 [tokens, places]
    weights: torch.Tensor  # float32 [tokens, places]


@kernel
def route(logits: torch.Tensor, *, chosen: int, normalized: bool, shared: int = 0) -> Routing:
    """Choose for each token the `chosen` experts with the highest `logits` [tokens, experts].

    Of equals it is the first. Their weights are the softmax over all, if `normalized` divided by their sum.
    `shared` more experts, which are counted behind the others, take every token; the weight of each is then
    the sigmoid of one more logit, the last.
    """
    gate = logits[:, -1:].float().sigmoid() if shared else None
    routed = logits[:, :-1] if shared else logits
    experts = routed.float().sort(dim=-1, descending=True, stable=True).indices[:, :chosen]
    weights = routed.float().softmax(-1).gather(1, experts)
    if normalized:
        weights = weights / weights.sum(-1, keepdim=True)
    if gate is not None:
        first = routed.shape[1]
        ever = torch.arange(first, first + shared, device=logits.device).expand(len(logits), -1)
        experts, weights = torch.cat([experts, ever], 1), torch.cat([weights, gate.expand(-1, shared)], 1)
    return Routing(experts.int(), weights.contiguous())


@kernel
def mix_experts(x: torch.Tensor, gate_up: Matrices, down: Matrices, routing: Routing) -> torch.Tensor:
    """What the experts of each token of `x` [tokens, hidden] give, weighted and summed: like `x`.

    An expert is a gated feed-forward layer: of `gate_up` [experts, 2 * inner, hidden], gate first, and `down`
    [experts, hidden, inner]. What a token gets does not depend on the others, but for the order of additions.
    """
    found = torch.empty(*routing.experts.shape, x.shape[1], dtype=x.dtype, device=x.device)
    for expert in set(routing.experts.flatten().tolist()):
        tokens, places = torch.where(routing.experts == expert)
        given = _product(silu_mul(_product(x[tokens], gate_up, expert)), down, expert)
        found[tokens, places] = (given * routing.weights[tokens, places, None]).to(x.dtype)
    return found.float().sum(1).to(x.dtype)


def _product(x: torch.Tensor, matrices: Matrices, expert: int) -> torch.Tensor:
    if isinstance(matrices, Fp8Matrix):
        return fp8_linear(x, Fp8Matrix(matrices.values[expert], matrices.factors[expert]))
    return linear(x, matrices[expert])
