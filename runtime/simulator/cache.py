"""A model of the radix cache of a worker: which prefixes it holds, block by block, and what it evicts.

It follows `runtime/kv/radix.py`: prefixes in use are locked, and of the others the leaves go first that the
advice and the last use say. Blocks stay whole here, and are known by the scheduler's keys.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from weft.runtime.kv.advice import Advice, Dead, Pin, eviction_order
from weft.runtime.scheduler.prefixes import Boundary

__all__ = ["CacheModel", "Path", "shared_tokens"]

Path = Sequence[Boundary]
"""A prompt: its prefixes, shortest first."""


def shared_tokens(path: Path, other: Path) -> float:
    """The tokens of the longest prefix that two prompts have in common."""
    shared = 0.0
    for mine, theirs in zip(path, other, strict=False):
        if mine.key != theirs.key:
            break
        shared = mine.tokens
    return shared


class _Node:
    __slots__ = ("advice", "children", "key", "living", "locks", "parent", "queued", "tokens", "used")

    def __init__(self, key: int, tokens: float, parent: _Node | None, used: float) -> None:
        self.key = key
        self.tokens = tokens  # of this block alone
        self.parent = parent
        self.used = used
        self.advice: Advice = None
        self.children = 0
        self.living = 0  # children that are not said to be dead
        self.locks = 0  # of paths that end here, and children that are locked
        self.queued: tuple[int, float] | None = None  # the entry that counts


class CacheModel:
    """One pool of `total` tokens for running requests and for what may be read again."""

    def __init__(self, total: float) -> None:
        self.total = total
        self.running = 0.0
        """Tokens that belong to running requests alone."""
        self.evictable = 0.0
        self.locked = 0.0
        self._nodes: dict[int, _Node] = {}
        self._leaves: list[tuple[tuple[int, float], int, _Node]] = []  # a heap; entries may be too early
        self._pins: list[tuple[float, int, _Node, Pin]] = []  # by when they turn; may be stale
        self._entries = 0
        self._now = 0.0
        self.broken = 0.0
        """Tokens evicted although they were pinned."""

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
                self._use(node, now)
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
                parent.living += 1
            parent, length = node, tokens
        if parent is not None:
            self._use(parent, now)
            self._offer(parent)

    def advise(self, path: Path, advice: Advice, now: float) -> None:
        """Say of a prompt, as far as it is held, what is known of its future."""
        self._now = max(self._now, now)
        for key, tokens in reversed(path):
            node = self._nodes.get(key)
            if node is None:
                continue
            pinned = isinstance(node.advice, Pin)
            if isinstance(advice, Dead) and (tokens <= advice.head or node.locks or node.living or pinned):
                return
            if isinstance(advice, Pin) and isinstance(node.advice, Pin):
                self._set_advice(node, advice.together(node.advice))
            else:
                self._set_advice(node, advice)

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
        while self._pins and self._pins[0][0] <= self._now:
            _, _, node, pin = heapq.heappop(self._pins)
            if node.advice == pin:
                self._set_advice(node, Pin(pin.expires) if pin.begins else None)
        while self.free < tokens and (leaf := self._pop_leaf()) is not None:
            node = leaf
            self.evictable -= node.tokens
            self.broken += node.tokens if isinstance(node.advice, Pin) else 0.0
            del self._nodes[node.key]
            if node.parent is not None:
                node.parent.children -= 1
                node.parent.living -= not isinstance(node.advice, Dead)
                node.parent.used = max(node.parent.used, node.used)  # whoever reads on has read this
                self._offer(node.parent)

    def _use(self, node: _Node, now: float) -> None:
        self._now = max(self._now, now)
        node.used = now
        on: _Node | None = node
        while on is not None and on.advice is not None:
            self._set_advice(on, None)
            on = on.parent

    def _set_advice(self, node: _Node, advice: Advice) -> None:
        if node.parent is not None:
            node.parent.living += isinstance(node.advice, Dead) - isinstance(advice, Dead)
        if isinstance(advice, Pin) and advice != node.advice:
            self._entries += 1
            heapq.heappush(self._pins, (advice.begins or advice.expires, self._entries, node, advice))
        node.advice = advice
        self._offer(node)

    def _offer(self, node: _Node) -> None:
        order = eviction_order(node.advice, node.used)
        if not (node.children or node.locks) and (node.queued is None or order < node.queued):
            node.queued = order
            self._entries += 1
            heapq.heappush(self._leaves, (order, self._entries, node))

    def _pop_leaf(self) -> _Node | None:
        while self._leaves:
            order, _, node = heapq.heappop(self._leaves)
            if node.queued != order:
                continue  # an earlier entry has taken its place
            node.queued = None
            if self._nodes.get(node.key) is not node:
                continue
            if order == eviction_order(node.advice, node.used) and not (node.children or node.locks):
                return node
            self._offer(node)
        return None
