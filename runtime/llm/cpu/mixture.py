"""A mixture of experts on a CPU."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn.functional import silu

from ..config import Experts
from ..mixture import choose_experts
from .linear import Linear, mode_of

__all__ = ["Mixture"]


class Mixture:
    """The experts of a layer, laid out for the CPU, and the router that chooses among them."""

    def __init__(
        self, experts: Experts, router: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor
    ) -> None:
        """Lay out matrices that are as those of `LayerWeights`."""
        self._experts = experts
        self._router = Linear(router)
        self._gate_up = [Linear(matrix) for matrix in gate_up]
        self._down = [Linear(matrix) for matrix in down]

    def matrices(self) -> Iterator[Linear]:
        """All matrices of the layer."""
        yield self._router
        yield from self._gate_up
        yield from self._down

    def add_to(self, total: torch.Tensor, x: torch.Tensor, threads: int) -> None:
        """Add what the experts give for `x` [tokens, hidden] to `total`, in place, one after the other.

        `threads`: which of the model's numbers of threads compute it.
        """
        routing = choose_experts(self._router(x, mode_of(len(x), threads)), self._experts)
        for expert, tokens, places in routing.by_expert():
            mode = mode_of(len(tokens), threads)
            gate, up = self._gate_up[expert](x[tokens], mode).chunk(2, dim=-1)
            given = self._down[expert](silu(gate).mul_(up), mode)
            total.index_add_(0, tokens, given.mul_(routing.weights[tokens, places, None]))
