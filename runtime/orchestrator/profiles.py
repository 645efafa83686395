"""Measured profiles as workers report them."""

from __future__ import annotations

from weft.graph.costs import DecodePoint, ModelCosts, PrefillPoint
from weft.proto import worker_pb2

__all__ = ["costs_of"]


def costs_of(profile: worker_pb2.Profile) -> ModelCosts | None:
    """What a model takes, if that was measured."""
    if not (profile.prefill and profile.decode):
        return None
    prefill = tuple(PrefillPoint(p.cached, p.computed, p.milliseconds) for p in profile.prefill)
    decode = tuple(DecodePoint(p.batch, p.context, p.milliseconds) for p in profile.decode)
    return ModelCosts(prefill, decode, profile.efficient_batch or 1)
