"""Which experts of a model's layer a token goes through."""

from __future__ import annotations

import torch

from weft.kernels.experts import Routing, route

from .config import Experts

__all__ = ["choose_experts"]


def choose_experts(logits: torch.Tensor, experts: Experts) -> Routing:
    """Those that the `logits` of a layer's router say, and those that every token goes through."""
    return route(logits, chosen=experts.chosen, normalized=experts.normalized, shared=experts.shared)
