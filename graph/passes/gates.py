"""What rewrites cost and save, from measured profiles.

Two things that a measured model shows, and that Teola's engines are not said to have: a step has a fixed
cost, so that reading in two pieces is dearer; and what runs on the model's processor slows it, so that
nothing is won by doing both at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from ..costs import CHARS_PER_TOKEN, DEFAULT_COSTS, ModelCosts
from ..deployment import Deployment
from ..ir import Node
from ..ops.control import Map
from ..prompt import Fixed, Piece

__all__ = ["NODE_MS", "SLOT_TOKENS", "Split", "competing", "measured", "shared_ms", "split_gain", "tokens_of"]

NODE_MS: Final = 1.0
"""What one more primitive costs on its way to a worker and back (measured on two cores)."""

SLOT_TOKENS: Final = 64.0
"""The tokens of a value that nobody has seen yet."""

_TEXT_MS: Final = 0.004  # of cutting text into one token (measured: 1 µs a character)


class Split(NamedTuple):
    """Reading two segments one after the other instead of both at once."""

    left_ms: float  # of the left segment: what a long enough wait hides
    cost_ms: float


def split_gain(deployment: Deployment, model: str, left: Iterable[Piece], right: Iterable[Piece]) -> Split:
    """What there is to gain by reading `left` early, and what it costs to read it apart.

    What a model does more than for the whole counts twice: this prompt waits for it, and so does whoever else
    wants the processor.
    """
    costs = measured(deployment, model) or DEFAULT_COSTS
    first, second = tokens_of(left), tokens_of(right)
    left_ms = costs.prefill_ms(0, first)
    apart_ms = left_ms + costs.prefill_ms(first, second)
    more_ms = apart_ms - costs.prefill_ms(0, first + second)
    return Split(left_ms, 2 * more_ms + NODE_MS)


def competing(deployment: Deployment, model: str) -> Callable[[Node], bool]:
    """Which nodes hold up what a model does meanwhile by as much as they take.

    Its own work, as measured costs are linear in the tokens of a step, and what is computed on the same
    processor. Of a model that nobody has measured the opposite is assumed, as Teola does of its engines.
    """
    spec = deployment.models.get(model)
    if spec is None or spec.costs is None:
        return lambda node: False

    def competes(node: Node) -> bool:
        if isinstance(node.op, Map):
            return any(map(competes, node.op.body))
        if node.op.kind != "llm":
            return bool(spec.processor) and deployment.processors.get(node.op.kind) == spec.processor
        other = deployment.models.get(getattr(node.op, "model", "") or deployment.default_model)
        return other is spec or (other is not None and other.processor == spec.processor != "")

    return competes


def shared_ms(deployment: Deployment, model: str, characters: int, prompts: int) -> float:
    """What is saved when a head of `characters` is a node of its own, for so many prompts; may be negative.

    A measured model runs on a worker of weft, which finds the KV of what it has read and reads once what
    requests beside each other begin with (`weft.runtime.llm.planner`): what is left to save is cutting the
    head's text into tokens, at the price of a step. Of others, all of reading it.
    """
    tokens = characters / CHARS_PER_TOKEN
    costs = measured(deployment, model)
    if costs is not None:
        return (prompts - 1) * _TEXT_MS * tokens - costs.prefill_terms[0] - NODE_MS
    once_ms = DEFAULT_COSTS.prefill_ms(0, 1 + tokens) - DEFAULT_COSTS.prefill_ms(0, 1)
    return (prompts - 1) * once_ms - NODE_MS


def tokens_of(pieces: Iterable[Piece]) -> float:
    """About how many tokens a segment has."""
    return sum(len(p.text) / CHARS_PER_TOKEN if isinstance(p, Fixed) else SLOT_TOKENS for p in pieces)


def measured(deployment: Deployment, model: str) -> ModelCosts | None:
    """What a model takes, if a worker has measured it."""
    spec = deployment.models.get(model)
    return spec.costs if spec is not None else None
