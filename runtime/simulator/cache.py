"""A model of the radix cache of a worker: which prefixes it holds, block by block, and what it evicts.

It follows `runtime/kv/radix.py`: prefixes in use are locked, and of the others the leaves go first that the
advice and the last use say. Blocks stay whole here, and are known by the scheduler's keys.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from weft.runtime.scheduler.prefixes import Boundary

__all__ = ["CacheModel", "Path"]

Path = Sequence[Boundary]
"""A prompt: its prefixes, shortest first."""


class _Node:
    __slots__ = ("children", "key", "locks", "parent", "queued", "tokens", "used")

    def __init__(self, key: int, tokens: float, parent: _Node | None, used: float) -> None:
        self.key = key
        self.tokens = tokens  # of this block alone
        self.parent = parent
        self.used = used
        self.children = 0
        self.locks = 0  # of paths that end here, and children that are locked
        self.queued = False


class CacheModel:
    """One pool of `total` tokens for running requests and for what may be read again."""

    def __init__(self, total: float) -> None:
        self.total = total
        self.running = 0.0
        """Tokens that belong to running requests alone."""
        self.evictable = 0.0
        self.locked = 0.0
        self._nodes: dict[int, _Node] = {}
        self._leaves: list[tuple[float, int, _Node]] = []  # by last use; may be stale
        self._entries = 0

    @property
    def available(self) -> float:
        """Tokens that can be had now: free ones and those that may be evicted."""
        return self.total - self.running - self.locked

    @property
    def free(self) -> float:
        """Tokens that hold nothing."""
        return self.available - self.evictable

    def match(self, path: Path, now: float) -> float:
        """The tokens of the longest prefix that is held; it counts as used."""
        for key, tokens in reversed(path):
            node = self._nodes.get(key)
            if node is not None:
                node.used = now
                return tokens
        return 0.0

    def insert(self, path: Path, now: float) -> None:
        """Hold all of a prompt. The caller has made room for what was not held."""
        known = len(path)
        while known and path[known - 1].key not in self._nodes:
            known -= 1
        parent = self._nodes[path[known - 1].key] if known else None
        length = path[known - 1].tokens if known else 0.0
        for key, tokens in path[known:]:
            node = self._nodes[key] = _Node(key, tokens - length, parent, now)
            self.evictable += node.tokens
            if parent is not None:
                parent.children += 1
            parent, length = node, tokens
        if parent is not None:
            parent.used = now
            self._offer(parent)

    def lock(self, path: Path) -> int | None:
        """Keep the longest prefix that is held; what to `unlock`."""
        found = next((self._nodes[key] for key, _ in reversed(path) if key in self._nodes), None)
        node = found
        while node is not None:
            node.locks += 1
            if node.locks > 1:
                break
            self.evictable -= node.tokens
            self.locked += node.tokens
            node = node.parent
        return found.key if found is not None else None

    def unlock(self, key: int | None) -> None:
        """Take back one `lock`. Raises ValueError if there is none."""
        node = self._nodes.get(key) if key is not None else None
        if key is not None and (node is None or not node.locks):
            raise ValueError("unlock of a prefix that is not locked")
        while node is not None:
            node.locks -= 1
            if node.locks:
                break
            self.locked -= node.tokens
            self.evictable += node.tokens
            self._offer(node)
            node = node.parent

    def make_room(self, tokens: float) -> None:
        """Evict until so many tokens are free, or nothing is left to evict."""
        while self.free < tokens and (node := self._pop_leaf()) is not None:
            self.evictable -= node.tokens
            del self._nodes[node.key]
            if node.parent is not None:
                node.parent.children -= 1
                node.parent.used = max(node.parent.used, node.used)  # whoever reads on has read this
                self._offer(node.parent)

    def _offer(self, node: _Node) -> None:
        if not (node.children or node.locks or node.queued):
            node.queued = True
            self._entries += 1
            heapq.heappush(self._leaves, (node.used, self._entries, node))

    def _pop_leaf(self) -> _Node | None:
        while self._leaves:
            used, _, node = heapq.heappop(self._leaves)
            node.queued = False
            if self._nodes.get(node.key) is not node:
                continue
            if used == node.used and not (node.children or node.locks):
                return node
            self._offer(node)
        return None
