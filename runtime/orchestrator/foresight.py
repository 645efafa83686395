"""New nodes of a run as primitives, with what is expected of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from weft.graph.analyses.forecast import Forecast, forecasts
from weft.graph.estimate import Estimator
from weft.graph.ir import Graph, Node, Value
from weft.graph.live import Growth, LiveGraph
from weft.graph.plan import Plan
from weft.runtime.scheduler.primitive import Primitive, describe

__all__ = ["Foresight", "of_plan"]


def of_plan(plan: Plan) -> tuple[Primitive, ...]:
    """The primitives that every run of a plan begins with."""
    outputs = [plan.live.resolve(value) for value in plan.source.outputs]
    graph = _graph(plan.nodes, outputs)
    return describe(plan.nodes, forecasts(graph, plan.live.estimator))


class Foresight:
    """What is expected of one run. It remembers what follows on control nodes that are to expand."""

    def __init__(self, live: LiveGraph) -> None:
        self._estimator: Estimator = live.estimator
        self._controls: dict[int, Forecast] = {}

    def remember(self, primitives: Iterable[Primitive]) -> None:
        """Take note of primitives that the run begins with."""
        for primitive in primitives:
            if primitive.node.op.kind == "control":
                self._controls[primitive.node.id] = primitive.forecast

    def of_growth(self, growth: Growth) -> tuple[Primitive, ...]:
        """The new nodes. If they replace a control node, what followed on it follows on the last of them."""
        nodes = growth.nodes
        control = self._controls.pop(nodes[-1].id, None) if growth.replaces else None
        if control is None:
            found = forecasts(_graph(nodes, _ends(nodes)), self._estimator)
        else:
            last = nodes[-1].id
            after, given = {last: control.remaining_ms - control.ms}, {last: control.objective}
            found = forecasts(_graph(nodes, ()), self._estimator, after=after, given=given)
        primitives = describe(nodes, found)
        self.remember(primitives)
        return primitives


def _ends(nodes: Sequence[Node]) -> list[Value]:
    """The nodes whose results no other of them takes: somebody outside is going to."""
    taken = {value.node for node in nodes for value in node.args.values()}
    return [Value(node.id) for node in nodes if node.id not in taken]


def _graph(nodes: Sequence[Node], outputs: Sequence[Value]) -> Graph:
    return Graph.inferred(tuple(nodes), tuple(outputs), "", {}, {})
