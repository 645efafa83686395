"""Programs compiled once and run many times."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from .deployment import Deployment
from .ir import Graph, Node
from .live import LiveGraph
from .observed import Observed

__all__ = ["Plan", "Plans"]

Made = TypeVar("Made")


@dataclass(frozen=True, eq=False)
class Plan:
    """A static program after all passes, for one deployment. A run takes a fork of `live`."""

    source: Graph
    live: LiveGraph
    nodes: tuple[Node, ...]

    @classmethod
    def compile(
        cls,
        source: Graph,
        deployment: Deployment,
        *,
        disabled: Collection[str] = (),
        observed: Observed | None = None,
    ) -> Plan:
        """Run the passes over a whole program. Raises GraphError."""
        live = LiveGraph(deployment, disabled=disabled, observed=observed)
        nodes = live.extend(source, closed=True)
        return cls(source, live, nodes)

    def instantiate(self) -> LiveGraph:
        """The graph of a new run; its nodes so far are `nodes`."""
        return self.live.fork()


class Plans(Generic[Made]):
    """What was compiled lately, all for one deployment and one state of predictions.

    At most `capacity` plans, and several only of programs that take no more than so many bytes together.
    """

    def __init__(self, capacity: int = 256, most_bytes: int = 8 * 2**20) -> None:
        self._capacity = capacity
        self._most_bytes = most_bytes
        self._plans: OrderedDict[Hashable, tuple[Made, int]] = OrderedDict()
        self._bytes = 0
        self._valid_for: tuple[Deployment, int] | None = None

    def get(self, key: Hashable, deployment: Deployment, epoch: int) -> Made | None:
        """What was made of the program that `key` says in full, if it was compiled for the same."""
        if self._valid_for is None or self._valid_for[0] is not deployment or self._valid_for[1] != epoch:
            self._plans.clear()
            self._bytes = 0
            self._valid_for = (deployment, epoch)
        found = self._plans.get(key)
        if found is None:
            return None
        self._plans.move_to_end(key)
        return found[0]

    def add(self, key: Hashable, plan: Made, size: int) -> Made:
        """Keep the plan of a program of so many bytes; those that were used least recently may go for it."""
        self._plans[key] = plan, size
        self._bytes += size
        while len(self._plans) > self._capacity or (len(self._plans) > 1 and self._bytes > self._most_bytes):
            _, (_, gone) = self._plans.popitem(last=False)
            self._bytes -= gone
        return plan

    def __len__(self) -> int:
        return len(self._plans)
