"""Nodes of the radix tree in the order in which they may be given up."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .radix import Node

__all__ = ["LruQueue"]


class LruQueue:
    """The nodes that satisfy a condition, least recently used first.

    A heap whose entries may be stale: a node is offered whenever it may have come to satisfy the condition,
    and what time has overtaken is mended when it comes to the top.
    """

    def __init__(self, eligible: Callable[[Node], bool]) -> None:
        self._eligible = eligible
        self._heap: list[tuple[float, int, Node]] = []
        self._queued: set[Node] = set()
        self._ticket = itertools.count()

    def offer(self, node: Node) -> None:
        """Enter `node`, if it satisfies the condition and is not there yet."""
        if node not in self._queued and self._eligible(node):
            self._queued.add(node)
            heapq.heappush(self._heap, (node.used, next(self._ticket), node))

    def pop(self) -> Node | None:
        """Take out the least recently used one."""
        while self._heap:
            used, _, node = heapq.heappop(self._heap)
            self._queued.remove(node)
            if used == node.used and self._eligible(node):
                return node
            self.offer(node)
        return None
