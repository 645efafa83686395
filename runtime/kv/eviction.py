"""Nodes of the radix tree in the order in which they may be given up."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

from .advice import eviction_order

if TYPE_CHECKING:
    from .node import Node

__all__ = ["EvictionQueue"]


class EvictionQueue:
    """The nodes that satisfy a condition: first by advice, then least recently used first.

    A heap whose entries may be too early, never too late: a node is offered whenever it may have come to
    satisfy the condition or to go earlier, and what time has overtaken is mended when it comes to the top.
    """

    def __init__(self, eligible: Callable[[Node], bool]) -> None:
        self._eligible = eligible
        self._heap: list[tuple[tuple[int, float], int, Node]] = []
        self._queued: dict[Node, tuple[int, float]] = {}  # the entry of each that counts
        self._ticket = itertools.count()

    def offer(self, node: Node) -> None:
        """Enter `node`, if it satisfies the condition and is not there yet, or too late."""
        order, queued = eviction_order(node.advice, node.used), self._queued.get(node)
        if (queued is None or order < queued) and self._eligible(node):
            self._queued[node] = order
            heapq.heappush(self._heap, (order, next(self._ticket), node))

    def pop(self) -> Node | None:
        """Take out the one that goes first."""
        while self._heap:
            order, _, node = heapq.heappop(self._heap)
            if self._queued.get(node) != order:
                continue  # an earlier entry has taken its place
            del self._queued[node]
            if order == eviction_order(node.advice, node.used) and self._eligible(node):
                return node
            self.offer(node)
        return None
