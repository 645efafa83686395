"""What is won by doing something with the items of a list while a model still writes the rest of it.

    list   ███████████████████          list   ███████████████████
    item 0                    ▓▓▓▒▒▒    item 0      ▓▓▓▒▒▒
    item 1                    ▓▓▓   ▒▒▒ item 1              ▓▓▓▒▒▒
    item 2                    ▓▓▓      ▒▒▒ item 2             ▓▓▓▒▒▒

The last item closes with the list, so what all items do side by side (▓) ends no sooner: won is what they
wait for each other to do (▒), for each item but the last.
"""

from __future__ import annotations

from ..deployment import Deployment, every_node
from ..estimate import Estimator
from ..ir import Graph, Node
from ..ops.primitive import Decode
from ..ops.user import Generate
from .gates import SLOT_TOKENS, competing, measured

__all__ = ["beside_ms"]


def beside_ms(
    body: Graph, model: str, deployment: Deployment, estimator: Estimator, *, one_by_one: bool = False
) -> float:
    """The milliseconds that each item but the last wins by beginning `body` while `model` writes.

    Of a model that nobody has measured everything is assumed to be won, as Teola does. `one_by_one`: bodies
    wait for each other, as many fewer are allowed at a time than there may be.
    """
    competes = competing(deployment, model)
    costs = measured(deployment, model)
    won = 0.0
    for node in every_node(body):
        if node.op.kind in ("host", "control"):
            continue
        if costs is None:
            won += estimator.duration_ms(node)
        elif not competes(node):
            won += estimator.duration_ms(node) if one_by_one else _waits_ms(node, deployment, estimator)
        elif one_by_one and node.op.kind == "llm":  # it shares the steps in which the list is written
            won += costs.prefill_terms[0] + _written(node, estimator) * costs.decode_terms[0]
    return won


def _waits_ms(node: Node, deployment: Deployment, estimator: Estimator) -> float:
    """How much longer two equal nodes take than one, if they begin together."""
    match node.op.kind:
        case "tool":
            return estimator.spread_ms(node)  # of calls side by side the slowest counts
        case "llm":
            costs = estimator.costs(getattr(node.op, "model", "") or deployment.default_model)
            read_ms = costs.prefill_ms(0, SLOT_TOKENS) - costs.prefill_terms[0]
            token_ms = costs.decode_ms(2, SLOT_TOKENS) - costs.decode_ms(1, SLOT_TOKENS)
            return read_ms + _written(node, estimator) * token_ms
        case _:
            return estimator.duration_ms(node)


def _written(node: Node, estimator: Estimator) -> float:
    """The tokens that a node writes."""
    match node.op:
        case Decode():
            return estimator.length(node)
        case Generate(sampling=sampling, n=n):
            return n * estimator.most_expected(sampling)
        case _:
            return 0.0
