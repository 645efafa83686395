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
    """What was compiled lately, at most `capacity`, all for one deployment and one state of predictions."""

    def __init__(self, capacity: int = 256) -> None:
        self._capacity = capacity
        self._plans: OrderedDict[Hashable, Made] = OrderedDict()
        self._valid_for: tuple[Deployment, int] | None = None

    def get(self, key: Hashable, deployment: Deployment, epoch: int) -> Made | None:
        """What was made of the program that `key` says in full, if it was compiled for the same."""
        if self._valid_for is None or self._valid_for[0] is not deployment or self._valid_for[1] != epoch:
            self._plans.clear()
            self._valid_for = (deployment, epoch)
        plan = self._plans.get(key)
        if plan is not None:
            self._plans.move_to_end(key)
        return plan

    def add(self, key: Hashable, plan: Made) -> Made:
        """Keep a plan; the one that was used least recently may go for it."""
        self._plans[key] = plan
        if len(self._plans) > self._capacity:
            self._plans.popitem(last=False)
        return plan

    def __len__(self) -> int:
        return len(self._plans)
