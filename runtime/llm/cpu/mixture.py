"""A mixture of experts on a CPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
        """Add what the experts give for `x` [tokens, hidden] to `total`, in place.

        The pairs of a token and an expert lie in the order of experts meanwhile, so that all but the products
        is done for all experts at once. `threads`: which of the model's numbers of threads compute it.
        """
        routing = choose_experts(self._router(x, mode_of(len(x), threads)), self._experts)
        experts, places = routing.experts.flatten(), routing.experts.shape[1]
        order = experts.argsort(stable=True)
        counts = experts.bincount(minlength=len(self._down)).tolist()
        gate, up = _multiply(self._gate_up, x[order // places], counts, threads).chunk(2, dim=-1)
        by_expert = _multiply(self._down, silu(gate).mul_(up), counts, threads)
        given = torch.empty_like(by_expert).index_copy_(0, order, by_expert).view(len(x), places, -1)
        total.add_((given * routing.weights[:, :, None]).sum(1))


def _multiply(
    matrices: Sequence[Linear], rows: torch.Tensor, counts: list[int], threads: int
) -> torch.Tensor:
    """The products of `rows` with the matrices, of which each has the next so many of `counts`."""
    parts = zip(matrices, torch.split(rows, counts), strict=True)
    return torch.cat([matrix(part, mode_of(len(part), threads)) for matrix, part in parts if len(part)])
