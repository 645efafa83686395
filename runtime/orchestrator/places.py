"""Where in a program each node of its run stands, in words that mean the same in every run of the program."""

from __future__ import annotations

from collections import Counter

from weft.graph.live import Growth

__all__ = ["Places"]


class Places:
    """The places of the nodes of one run.

    The ids of a live graph follow from the order in which it grew, and from what passes thought would pay. A
    place is the control node that a node comes from, by its place; what the node was called there; its
    operation; and which of several such it is, since the bodies of a map begin in the order of its items, and
    the turns of a loop one after the other. It means one node among those that no pass merges, cuts or leaves
    out: tools, questions to people, and control flow. Places look alike in every weft whose journal has the
    same version: by them a tool is known that must not run twice.
    """

    def __init__(self) -> None:
        self._places: dict[int, str] = {}
        self._alike: Counter[str] = Counter()

    def add(self, growth: Growth) -> None:
        """Take note of new nodes."""
        control = growth.nodes[-1].id if growth.replaces else growth.control
        within = "" if control is None else f"{self._places[control]}/"
        for node in growth.nodes:
            if node.id == control and node.op.kind == "control":
                continue  # the further turns of a loop
            alike = f"{within}{node.origin} {node.op.label()}"
            self._places[node.id] = f"{alike} {self._alike[alike]}"
            self._alike[alike] += 1

    def of(self, node: int) -> str:
        """The place of a node."""
        return self._places[node]
