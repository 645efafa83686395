"""Muon for the weight matrices and AdamW for the rest, on one schedule."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from .network import Network

__all__ = ["Optimizers"]

_MUON_RATE: Final = 0.015
_ADAM_RATE: Final = 3e-3
_MOMENTUM: Final = 0.95
_DECAY: Final = 0.02
_WARM_UP: Final = 0.01
"""The share of the training in which the rates rise; after it they fall to zero along a line."""


class Optimizers:
    """What a training step updates with."""

    def __init__(self, network: Network) -> None:
        shape = network.shape
        parts = {"qkv": (shape.width, shape.kv_width, shape.kv_width), "up": (shape.hidden, shape.hidden)}
        matrices: list[tuple[Tensor, tuple[int, ...]]] = []
        others: list[Tensor] = []
        for name, parameter in network.named_parameters():
            if parameter.ndim == 2 and name != "embedding":
                matrices.append((parameter, parts.get(name.split(".")[-2], (parameter.shape[0],))))
            else:
                others.append(parameter)
        self._muon = _Muon(matrices)
        fused = network.embedding.device.type == "cuda"
        self._adam = torch.optim.AdamW(
            others, lr=_ADAM_RATE, betas=(0.9, 0.95), weight_decay=0.0, fused=fused
        )

    def step(self, progress: float) -> None:
        """Update by the gradients, and drop them; `progress` is the share of the training that is done."""
        factor = _schedule(progress)
        for group in self._adam.param_groups:
            group["lr"] = _ADAM_RATE * factor
        self._muon.step(_MUON_RATE * factor)
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        """What has to be kept to go on later; its floats are rounded to bfloat16."""
        return {
            "muon": [m.bfloat16() for m in self._muon.momenta()],
            "adam": _rounded(self._adam.state_dict()),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        for momentum, kept in zip(self._muon.momenta(), state["muon"], strict=True):
            momentum.copy_(kept)
        self._adam.load_state_dict(state["adam"])


class _Muon:
    """Momentum with orthogonal updates (Keller Jordan, https://kellerjordan.github.io/posts/muon/).

    Fused matrices are cut into their parts (queries, keys, values; gate, up), which are orthogonalized apart;
    parts of one shape are stacked, which keeps the number of kernel launches small.
    """

    def __init__(self, matrices: list[tuple[Tensor, tuple[int, ...]]]) -> None:
        self._parameters = [parameter for parameter, _ in matrices]
        self._parts: dict[tuple[int, int], list[tuple[Tensor, int, int]]] = {}
        for parameter, sizes in matrices:
            at = 0
            for size in sizes:
                self._parts.setdefault((size, parameter.shape[1]), []).append((parameter, at, at + size))
                at += size
        self._momenta = {
            shape: torch.zeros((len(parts), *shape), device=parts[0][0].device)
            for shape, parts in self._parts.items()
        }
        on_gpu = matrices[0][0].device.type == "cuda"
        self._orthogonal = torch.compile(_orthogonal, dynamic=False) if on_gpu else _orthogonal

    def momenta(self) -> list[Tensor]:
        """The state, in a fixed order."""
        return list(self._momenta.values())

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Update by the gradients, and drop them."""
        for shape, parts in self._parts.items():
            gradient = torch.stack([_gradient(p)[a:b] for p, a, b in parts])
            momentum = self._momenta[shape].lerp_(gradient, 1 - _MOMENTUM)
            update = self._orthogonal(gradient.lerp(momentum, _MOMENTUM)).to(gradient.dtype)
            members = [p[a:b] for p, a, b in parts]
            torch._foreach_mul_(members, 1 - rate * _DECAY)
            scale = max(1.0, shape[0] / shape[1]) ** 0.5
            torch._foreach_add_(members, list(update.unbind(0)), alpha=-rate * scale)
        for parameter in self._parameters:
            parameter.grad = None


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def _orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """Newton-Schulz iteration towards the nearest (semi-)orthogonal matrices."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x: Tensor = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        y = x @ x.mT
        x = a * x + (b * y + c * y @ y) @ x
    return x.mT if tall else x


def _schedule(progress: float) -> float:
    if progress < _WARM_UP:
        return progress / _WARM_UP
    return (1 - progress) / (1 - _WARM_UP)


def _rounded(state: Any) -> Any:
    """The same with its tensors in bfloat16, but for counts of steps."""
    match state:
        case Tensor():
            return state.bfloat16() if state.ndim else state
        case dict():
            return {key: _rounded(value) for key, value in state.items()}
        case list():
            return [_rounded(value) for value in state]
        case _:
            return state
