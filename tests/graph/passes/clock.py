"""Runs on a virtual clock: engines take the time that they are said to take."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

from weft.graph.deployment import Deployment
from weft.graph.ir import Graph, Node, Value
from weft.graph.live import Growth
from weft.graph.observed import Observed
from weft.graph.ops.base import Op
from weft.graph.ops.primitive import Decode
from weft.graph.values import Datum, plain

from .conftest import Interpreter

PIECES = 24  # in which a model writes


@dataclass(frozen=True)
class Interval:
    """When a node was computed."""

    node: Node
    start: float
    end: float

    def overlaps(self, other: Interval) -> bool:
        return self.start < other.end and other.start < self.end


class Rehearsal(Interpreter):
    """A run whose nodes take `ms`. Engines compute all at once, but those of a kind in `one_by_one`."""

    def __init__(
        self,
        graph: Graph,
        inputs: Mapping[str, Any],
        ms: Callable[[Node, Mapping[str, Datum]], float],
        disabled: Collection[str] = (),
        one_by_one: Collection[str] = (),
        deployment: Deployment | None = None,
        observed: Observed | None = None,
    ) -> None:
        super().__init__(graph, inputs, disabled, 0, deployment=deployment, observed=observed)
        self.now = 0.0
        self.intervals: list[Interval] = []
        self._ms = ms
        self._free = dict.fromkeys(one_by_one, 0.0)  # when the engine of a kind has done what it was given
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()

    def run(self) -> list[object]:
        self.grow(Growth(self.live.extend(self.graph, closed=True)))
        self.start_ready()
        while self._due:
            self.now, _, happen = heapq.heappop(self._due)
            happen()
            self.start_ready()
        assert not self.todo, f"nothing can run: {list(self.todo.values())}"
        return self.outputs()

    def start_ready(self) -> None:
        while ready := [n for n in self.todo.values() if all(v in self.known for v in n.args.values())]:
            for node in ready:
                if node.id in self.todo:
                    self.start(node)

    def of(self, op: type[Op]) -> list[Interval]:
        """When nodes of one operation were computed, in the order of their begins."""
        return sorted((i for i in self.intervals if isinstance(i.node.op, op)), key=lambda i: i.start)

    def compute(self, node: Node, args: Mapping[str, Datum]) -> None:
        start = max(self.now, self._free.get(node.op.kind, 0.0))
        end = start + self._ms(node, args)
        if node.op.kind in self._free:
            self._free[node.op.kind] = end
        results = self.engines.compute(node.op, args)

        def finish() -> None:
            self.intervals.append(Interval(node, start, end))
            if isinstance(node.op, Decode):
                self.live.streams.ended(node.id, str(plain(results[1])))
            self.learn({Value(node.id, i): result for i, result in enumerate(results)})

        if isinstance(node.op, Decode):
            self._at(start, lambda: self.live.streams.begin(node.id))
            text = str(plain(results[1]))
            size = math.ceil(len(text) / PIECES) or 1
            for at in range(0, len(text), size):
                when = start + (end - start) * min(at + size, len(text)) / len(text)
                self._at(when, partial(self.piece, node.id, text[at : at + size]))
        self._at(end, finish)

    def piece(self, decode: int, text: str) -> None:
        self.take_in(*self.live.written(decode, text))

    def _at(self, when: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._due, (when, next(self._numbers), happen))
