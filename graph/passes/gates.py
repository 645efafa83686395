"""What rewrites cost and save, from measured profiles.

Two things that a measured model shows, and that Teola's engines are not said to have: a step has a fixed
cost, which work that shares the step shares; and what runs on one processor beside a model slows it, so that
nothing is won by overlapping the two but that fixed cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from ..costs import CHARS_PER_TOKEN, DEFAULT_COSTS, ModelCosts
from ..deployment import Deployment, every_node
from ..estimate import Estimator
from ..ir import Graph, Node
from ..ops.primitive import Decode
from ..ops.user import Generate
from ..prompt import Fixed, Piece

__all__ = ["NODE_MS", "Split", "beside_ms", "competing", "shared_ms", "split_gain", "tokens_of"]

NODE_MS: Final = 1.0
"""What one more primitive costs on its way to a worker and back (measured on two cores)."""

_SLOT_TOKENS: Final = 64.0  # of a value that nobody has seen yet
_TEXT_MS: Final = 0.004  # of cutting text into one token (measured: 1 µs a character)


class Split(NamedTuple):
    """Reading two segments one after the other instead of both at once."""

    left_ms: float  # of the left segment: what a long enough wait hides
    cost_ms: float


def split_gain(deployment: Deployment, model: str, left: Iterable[Piece], right: Iterable[Piece]) -> Split:
    """What there is to gain by reading `left` early, and what it costs to read it apart."""
    costs = _measured(deployment, model) or DEFAULT_COSTS
    first, second = tokens_of(left), tokens_of(right)
    left_ms = costs.prefill_ms(0, first)
    apart_ms = left_ms + costs.prefill_ms(first, second)
    return Split(left_ms, apart_ms - costs.prefill_ms(0, first + second) + NODE_MS)


def competing(deployment: Deployment, model: str) -> Callable[[Node], bool]:
    """Which nodes hold up what a model does meanwhile by as much as they take.

    Its own work, as measured costs are linear in the tokens of a step, and what is computed on the same
    processor. Of a model that nobody has measured the opposite is assumed, as Teola does of its engines.
    """
    spec = deployment.models.get(model)
    if spec is None or spec.costs is None:
        return lambda node: False

    def competes(node: Node) -> bool:
        if node.op.kind != "llm":
            return bool(spec.processor) and deployment.processors.get(node.op.kind) == spec.processor
        other = deployment.models.get(getattr(node.op, "model", "") or deployment.default_model)
        return other is spec or (other is not None and other.processor == spec.processor != "")

    return competes


def beside_ms(body: Graph, model: str, deployment: Deployment, estimator: Estimator) -> float:
    """What is won by doing the work of a body while a model writes, rather than after it.

    All of it that does not compete; of what the model itself reads and writes, the fixed cost of the steps.
    """
    competes, costs = competing(deployment, model), _measured(deployment, model)
    won = 0.0
    for node in every_node(body):
        if node.op.kind in ("host", "control"):
            continue
        if not competes(node):
            won += estimator.duration_ms(node)
        elif costs is not None and node.op.kind == "llm":
            won += costs.prefill_terms[0] + _texts(node, estimator) * costs.decode_terms[0]
    return won


def _texts(node: Node, estimator: Estimator) -> float:
    """The tokens that a node writes."""
    match node.op:
        case Decode():
            return estimator.length(node)
        case Generate(sampling=sampling, n=n):
            return n * estimator.most_expected(sampling)
        case _:
            return 0.0


def shared_ms(deployment: Deployment, model: str, characters: int, prompts: int) -> float:
    """What is saved when a head of `characters` is a node of its own, for so many prompts; may be negative.

    A measured model runs on a worker of weft, which finds the KV of what it has read and reads once what
    requests beside each other begin with (`weft.runtime.llm.planner`): what is left to save is cutting the
    head's text into tokens, at the price of a step. Of others, all of reading it.
    """
    tokens = characters / CHARS_PER_TOKEN
    costs = _measured(deployment, model)
    if costs is not None:
        return (prompts - 1) * _TEXT_MS * tokens - costs.prefill_terms[0] - NODE_MS
    once_ms = DEFAULT_COSTS.prefill_ms(0, 1 + tokens) - DEFAULT_COSTS.prefill_ms(0, 1)
    return (prompts - 1) * once_ms - NODE_MS


def tokens_of(pieces: Iterable[Piece]) -> float:
    """About how many tokens a segment has."""
    return sum(len(p.text) / CHARS_PER_TOKEN if isinstance(p, Fixed) else _SLOT_TOKENS for p in pieces)


def _measured(deployment: Deployment, model: str) -> ModelCosts | None:
    spec = deployment.models.get(model)
    return spec.costs if spec is not None else None
