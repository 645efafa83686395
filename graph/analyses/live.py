"""What is expected of the nodes of a run while it grows: deduced again when somebody takes their results.

increment 1:  %1 %2 … %16            nobody waits for them yet: throughput
increment 2:  %17 = f(%1 … %16)      somebody waits for %17: latency, and before it one task group;
                                     what follows on %17 follows on each of them
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from dataclasses import replace

from ..estimate import Estimator
from ..ir import Graph, Node, Value
from .forecast import Forecast, forecasts

__all__ = ["LiveForecasts"]


class LiveForecasts:
    """Forecasts of what a run has not done yet (Parrot, OSDI'24, section 5.2, on a graph that grows).

    `known`: the values that the run has. `wanted`: those that somebody waits for now.
    """

    def __init__(self, estimator: Estimator, known: Container[Value], wanted: Collection[Value]) -> None:
        self._estimator = estimator
        self._known = known
        self._wanted = wanted
        self._nodes: dict[int, Node] = {}  # some of which may be done by now
        self._found: dict[int, Forecast] = {}

    def put(self, nodes: Iterable[Node], found: Mapping[int, Forecast]) -> None:
        """Take in nodes whose forecasts are known."""
        self._nodes.update((node.id, node) for node in nodes)
        self._found.update(found)

    def grow(self, nodes: Sequence[Node]) -> dict[int, Forecast]:
        """The forecasts of an increment, and of what is not done yet those that have changed."""
        self._forget_done()
        takes = {value.node for node in nodes for value in node.args.values()}
        waits = {value.node for value in self._wanted if self._is_new_aim(value.node)}
        concerned = self._concerned((takes | waits) & self._nodes.keys())
        found = self._forecasts([*concerned, *nodes])
        changed = {number: it for number, it in found.items() if self._found.get(number) != it}
        self.put(nodes, changed)
        return changed

    def begin(self, control: int, nodes: Sequence[Node]) -> dict[int, Forecast]:
        """The forecasts of bodies of a control node that goes on with their results once it has them all."""
        taken = {value.node for node in nodes for value in node.args.values()}
        ends = [node.id for node in nodes if node.id not in taken]
        more = {f"body {number}": Value(number) for number in ends}
        taker = replace(self._nodes[control], args=more)  # of the new ones alone, however many there are
        self._nodes[control] = replace(taker, args={**self._nodes[control].args, **more})
        return self._before(control, [*nodes, taker], nodes)

    def expand(self, nodes: Sequence[Node]) -> dict[int, Forecast]:
        """The forecasts of what a control node has become: the last has its id, and takes its place."""
        return self._before(nodes[-1].id, nodes, nodes)

    def _before(self, last: int, graph: Sequence[Node], nodes: Sequence[Node]) -> dict[int, Forecast]:
        """The forecasts of nodes that lead to one whose place in the run is known."""
        place = self._found[last]
        after, given = {last: place.remaining_ms - place.ms}, {last: place.objective}
        every = forecasts(_graph(graph), self._estimator, after=after, given=given)
        found = {node.id: every[node.id] for node in nodes}
        self.put(nodes, found)
        return found

    def _forecasts(self, nodes: Sequence[Node]) -> dict[int, Forecast]:
        made = {node.id for node in nodes}
        return forecasts(_graph(nodes, [v for v in self._wanted if v.node in made]), self._estimator)

    def _is_new_aim(self, number: int) -> bool:
        """Whether a node that is wanted was not when it was looked at last."""
        return number in self._found and self._found[number].objective.kind != "latency"

    def _concerned(self, taken: Collection[int]) -> list[Node]:
        """What hangs together with these nodes, as far as it is not done: siblings count, too."""
        around: dict[int, set[int]] = {number: set() for number in self._nodes}
        for number in self._nodes:
            for maker in self._makers(number):
                around[maker].add(number)
                around[number].add(maker)
        return self._sorted(_reachable(taken, around.__getitem__))

    def _makers(self, number: int) -> list[int]:
        made = dict.fromkeys(value.node for value in self._nodes[number].args.values())
        return [maker for maker in made if maker in self._nodes]

    def _sorted(self, numbers: Collection[int]) -> list[Node]:
        """In topological order: what has taken the place of a control node comes behind its bodies."""
        order: dict[int, None] = {}
        for number in sorted(numbers):
            path = [number]
            while path:
                missing = next((m for m in self._makers(path[-1]) if m in numbers and m not in order), None)
                if missing is not None:
                    path.append(missing)
                else:
                    order[path.pop()] = None
        return [self._nodes[number] for number in order]

    def _forget_done(self) -> None:
        for number in [number for number in self._nodes if Value(number) in self._known]:
            del self._nodes[number]
            self._found.pop(number, None)


def _graph(nodes: Sequence[Node], outputs: Sequence[Value] = ()) -> Graph:
    return Graph.inferred(tuple(nodes), tuple(outputs), "", {}, {})


def _reachable(start: Iterable[int], onward: Callable[[int], Iterable[int]]) -> set[int]:
    found = set(start)
    rest = list(found)
    while rest:
        further = set(onward(rest.pop())) - found
        found |= further
        rest += further
    return found
