"""What is expected of each node of a graph: how long it takes, what follows on it, what it is run for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ..estimate import Estimator
from ..ir import Graph, Node, Value
from ..ops.primitive import Decode, Prefill, Score, Weigh
from .depth import remaining_ms
from .objectives import THROUGHPUT, Aim, Objective, objectives

__all__ = ["UNKNOWN", "Forecast", "forecasts"]


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is expected of a node."""

    ms: float = 0.0  # alone on an idle engine
    remaining_ms: float = 0.0  # of the longest way from its beginning to the end of the graph
    reads: float = 0.0  # tokens that it adds to the context by reading
    writes: float = 0.0  # tokens that it writes
    objective: Objective = THROUGHPUT


UNKNOWN: Final = Forecast()


def forecasts(
    graph: Graph,
    estimator: Estimator,
    *,
    after: Mapping[int, float] | None = None,
    given: Mapping[int, Objective] | None = None,
) -> dict[int, Forecast]:
    """A forecast of each node by its id. Somebody waits for the graph's outputs.

    `after` and `given`: the milliseconds that follow on some nodes outside the graph, and what those are run
    for.
    """
    ms = {node.id: estimator.duration_ms(node) for node in graph}
    remaining = remaining_ms(graph, lambda node: ms[node.id], after)
    wanted: dict[Value, Aim] = dict.fromkeys(graph.outputs, "latency")
    found = objectives(graph, wanted, given)
    return {
        node.id: Forecast(
            ms[node.id], remaining[node.id], _reads(node, estimator), _writes(node, estimator), found[node.id]
        )
        for node in graph
    }


def _reads(node: Node, estimator: Estimator) -> float:
    match node.op:
        case Prefill():
            return estimator.tokens(node)
        case Score() | Weigh():
            return estimator.options(node)
        case _:
            return 0.0


def _writes(node: Node, estimator: Estimator) -> float:
    return estimator.length(node) if isinstance(node.op, Decode) else 0.0
