"""New nodes of a run as primitives, with what is expected of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from weft.graph.analyses.forecast import Forecast, forecasts
from weft.graph.analyses.live import LiveForecasts
from weft.graph.ir import Graph, Value
from weft.graph.live import Growth, LiveGraph
from weft.graph.plan import Plan
from weft.runtime.scheduler.primitive import Primitive, describe

__all__ = ["Foresight", "Outlook", "of_plan"]


def of_plan(plan: Plan) -> tuple[Primitive, ...]:
    """The primitives that every run of a plan begins with."""
    outputs = tuple(plan.live.resolve(value) for value in plan.source.outputs)
    graph = Graph.inferred(plan.nodes, outputs, "", {}, {})
    return describe(plan.nodes, forecasts(graph, plan.live.estimator))


class Outlook(NamedTuple):
    """New nodes as primitives, and what is expected by now of nodes that were there before."""

    primitives: tuple[Primitive, ...]
    revised: Mapping[int, Forecast]


class Foresight:
    """What is expected of one run. `wanted`: the values that its client waits for now."""

    def __init__(self, live: LiveGraph, wanted: Collection[Value]) -> None:
        self._forecasts = LiveForecasts(live.estimator, live.known, wanted)

    def remember(self, primitives: Iterable[Primitive]) -> None:
        """Take note of primitives that the run begins with."""
        begun = list(primitives)
        self._forecasts.put((p.node for p in begun), {p.node.id: p.forecast for p in begun})

    def of_growth(self, growth: Growth) -> Outlook:
        """The new nodes, and what changes on their account."""
        nodes = growth.nodes
        if growth.replaces:
            found = self._forecasts.expand(nodes)
        elif growth.control is not None:
            found = self._forecasts.begin(growth.control, nodes)
        else:
            found = self._forecasts.grow(nodes)
        new = {node.id for node in nodes}
        revised = {number: forecast for number, forecast in found.items() if number not in new}
        return Outlook(describe(nodes, found), revised)
