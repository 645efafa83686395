"""What rewrites of prompts cost and save, from measured profiles."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from ..costs import CHARS_PER_TOKEN, DEFAULT_COSTS, ModelCosts
from ..deployment import Deployment
from ..prompt import Fixed, Piece

__all__ = ["NODE_MS", "SLOT_TOKENS", "Split", "competes", "shared_ms", "split_gain", "tokens_of"]

NODE_MS: Final = 1.0
"""What one more primitive costs on its way to a worker and back (measured on two cores)."""

SLOT_TOKENS: Final = 64.0
"""The tokens of a value that nobody has seen yet."""


class Split(NamedTuple):
    """Reading two segments one after the other instead of both at once."""

    left_ms: float  # of the left segment: what a long enough wait hides
    cost_ms: float


def split_gain(deployment: Deployment, model: str, left: Iterable[Piece], right: Iterable[Piece]) -> Split:
    """What there is to gain by reading `left` early, and what it costs to read it apart."""
    costs = _costs(deployment, model)
    first, second = tokens_of(left), tokens_of(right)
    left_ms = costs.prefill_ms(0, first)
    apart_ms = left_ms + costs.prefill_ms(first, second)
    return Split(left_ms, apart_ms - costs.prefill_ms(0, first + second) + NODE_MS)


def competes(deployment: Deployment, model: str) -> bool:
    """Whether reading something holds up what a model writes meanwhile by as much as reading it later takes.

    That is what measured costs say, which are linear in the tokens of a step. Of a model that nobody has
    measured the opposite is assumed, as Teola does of its engines.
    """
    spec = deployment.models.get(model)
    return spec is not None and spec.costs is not None


def shared_ms(deployment: Deployment, model: str, characters: int, prompts: int) -> float:
    """What is saved when so many prompts read a head of `characters` once, not each; may be negative."""
    costs = _costs(deployment, model)
    tokens = characters / CHARS_PER_TOKEN
    once_ms = costs.prefill_ms(0, 1 + tokens) - costs.prefill_ms(0, 1)
    return (prompts - 1) * once_ms - NODE_MS


def tokens_of(pieces: Iterable[Piece]) -> float:
    """About how many tokens a segment has."""
    return sum(len(p.text) / CHARS_PER_TOKEN if isinstance(p, Fixed) else SLOT_TOKENS for p in pieces)


def _costs(deployment: Deployment, model: str) -> ModelCosts:
    spec = deployment.models.get(model)
    return spec.costs if spec is not None and spec.costs is not None else DEFAULT_COSTS
