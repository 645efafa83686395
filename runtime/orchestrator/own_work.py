"""What the orchestrator computes itself of a run, and what of it can be computed by now. Pure."""

from __future__ import annotations

from collections.abc import Container, Iterable

from weft.graph.ir import Node, Value
from weft.graph.ops.common import Input

__all__ = ["OwnWork"]


class OwnWork:
    """Nodes without an engine that have not been computed. `values` is what their run knows."""

    def __init__(self, values: Container[Value]) -> None:
        self._values = values
        self._missing: dict[int, int] = {}  # by node: how many of its operands are not known
        self._takers: dict[Value, list[int]] = {}
        self._due: list[int] = []

    def add(self, nodes: Iterable[Node]) -> None:
        """Take note of new nodes."""
        for node in nodes:
            if node.op.kind != "host" or isinstance(node.op, Input):
                continue
            missing = {value for value in node.args.values() if value not in self._values}
            if not missing:
                self._due.append(node.id)
                continue
            self._missing[node.id] = len(missing)
            for value in missing:
                self._takers.setdefault(value, []).append(node.id)

    def learned(self, values: Iterable[Value]) -> None:
        """Values have become known."""
        for value in values:
            for number in self._takers.pop(value, ()):
                self._missing[number] -= 1
                if not self._missing[number]:
                    del self._missing[number]
                    self._due.append(number)

    def take(self) -> list[int]:
        """The nodes that can be computed and have not been taken, each after those whose results it takes."""
        due, self._due = self._due, []
        return due
