"""A radix tree over token ids that maps every cached prefix to the KV slots that hold it.

The tree is RadixAttention's (Zheng et al., "SGLang", NeurIPS 2024, section 3) at token granularity: an edge
is a run of tokens, siblings differ in their first token, and a path from a root spells a cached prefix.
Each namespace has a root of its own, so equal tokens under different namespaces never share slots.

It is a plain data structure: no threads, no tensors, and the clock comes from the caller.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Insertion", "Match", "Node", "RadixTree", "Tokens", "common_prefix"]

Tokens = NDArray[np.int64]
"""Token ids or slot indices: a one-dimensional int64 array."""

_EMPTY: Tokens = np.empty(0, dtype=np.int64)


class Node:
    """One edge of the tree together with the node it leads to; callers hold it only to lock and unlock it."""

    __slots__ = ("children", "locks", "parent", "queued", "slots", "tokens", "used")

    def __init__(self, tokens: Tokens, slots: Tokens, parent: Node | None, used: float) -> None:
        self.tokens = tokens
        self.slots = slots
        self.parent = parent  # None: a root, or a node that has been evicted
        self.used = used
        self.children: dict[int, Node] = {}
        self.locks = 0
        self.queued = False  # whether the eviction heap holds an entry for this node


class Match(NamedTuple):
    """The longest cached prefix of some tokens."""

    slots: Tokens  # of the matched tokens, in order
    node: Node  # where the match ends; lock it before anything may be evicted


class Insertion(NamedTuple):
    """What became of inserted tokens."""

    slots: Tokens  # the tree's slots of all the tokens: earlier ones where the tree had them already
    node: Node  # where the tokens end
    duplicates: Tokens  # those of the caller's slots that the tree did not take; the caller frees them


class RadixTree:
    """Cached prefixes with locks and least-recently-used eviction of leaves."""

    def __init__(self) -> None:
        self._roots: dict[str, Node] = {}
        self._leaves: list[tuple[float, int, Node]] = []  # a heap; entries may be stale
        self._ticket = itertools.count()
        self.evictable = 0
        """Cached tokens that no lock protects."""
        self.locked = 0
        """Cached tokens on the path of some lock."""

    @property
    def size(self) -> int:
        """All cached tokens."""
        return self.evictable + self.locked

    def match(self, namespace: str, tokens: Tokens, now: float) -> Match:
        """Find the longest cached prefix of `tokens` and mark it, and only it, as used at `now`."""
        node = self._roots.get(namespace) or Node(_EMPTY, _EMPTY, None, now)
        node, found = self._descend(node, tokens, now)
        return Match(np.concatenate(found) if found else _EMPTY, node)

    def insert(self, namespace: str, tokens: Tokens, slots: Tokens, now: float) -> Insertion:
        """Add `tokens`, held by `slots`; where the tree has them already, its own slots stay."""
        if len(tokens) != len(slots):
            raise ValueError(f"{len(tokens)} tokens cannot be held by {len(slots)} slots")
        root = self._roots.setdefault(namespace, Node(_EMPTY, _EMPTY, None, now))
        node, found = self._descend(root, tokens, now)
        present = sum(map(len, found))
        if present < len(tokens):
            node = self._add_leaf(node, tokens[present:].copy(), slots[present:].copy(), now)
            found.append(node.slots)
        elif node is root:
            self._drop_if_empty(namespace, root)
        held = np.concatenate(found) if found else _EMPTY
        return Insertion(held, node, slots[held != slots])

    def lock(self, node: Node) -> None:
        """Protect the path from the root to `node` against eviction; locks count."""
        while node.parent is not None:
            if node.locks == 0:
                self.evictable -= len(node.tokens)
                self.locked += len(node.tokens)
            node.locks += 1
            node = node.parent

    def unlock(self, node: Node) -> None:
        """Take back one `lock` of the same node."""
        while node.parent is not None:
            if node.locks == 0:
                raise ValueError("unlock of a node that is not locked")
            node.locks -= 1
            if node.locks == 0:
                self.locked -= len(node.tokens)
                self.evictable += len(node.tokens)
                self._offer(node)
            node = node.parent

    def evict(self, count: int) -> Tokens:
        """Drop up to `count` unlocked tokens, least recently used leaves first, and return their slots.

        A leaf larger than what is left to drop loses only its tail: its head stays useful.
        """
        freed: list[Tokens] = []
        while count > 0 and (node := self._pop_leaf()) is not None:
            keep = max(len(node.tokens) - count, 0)
            freed.append(node.slots[keep:])
            count -= len(node.tokens) - keep
            self.evictable -= len(node.tokens) - keep
            if keep:
                node.tokens, node.slots = node.tokens[:keep], node.slots[:keep]
                self._offer(node)
            else:
                self._remove(node)
        return np.concatenate(freed) if freed else _EMPTY

    def nodes(self) -> Iterator[tuple[str, Node]]:
        """All nodes but the roots, each with its namespace."""
        for namespace, root in self._roots.items():
            pending = list(root.children.values())
            while pending:
                node = pending.pop()
                yield namespace, node
                pending.extend(node.children.values())

    def _descend(self, node: Node, tokens: Tokens, now: float) -> tuple[Node, list[Tokens]]:
        """Walk from a root along `tokens`, splitting where they leave an edge, and refresh the path."""
        found: list[Tokens] = []
        at = 0
        node.used = now
        while at < len(tokens) and (child := node.children.get(int(tokens[at]))) is not None:
            shared = common_prefix(child.tokens, tokens[at:])
            node = child if shared == len(child.tokens) else self._split(child, shared)
            node.used = now
            found.append(node.slots)
            at += shared
        return node, found

    def _split(self, node: Node, at: int) -> Node:
        """Cut an edge after `at` tokens; `node` stays the lower part, so that locks on it remain right."""
        assert node.parent is not None
        upper = Node(node.tokens[:at], node.slots[:at], node.parent, node.used)
        upper.locks = node.locks
        upper.children[int(node.tokens[at])] = node
        node.parent.children[int(node.tokens[0])] = upper
        node.tokens, node.slots, node.parent = node.tokens[at:], node.slots[at:], upper
        return upper

    def _add_leaf(self, parent: Node, tokens: Tokens, slots: Tokens, now: float) -> Node:
        leaf = Node(tokens, slots, parent, now)
        parent.children[int(tokens[0])] = leaf
        self.evictable += len(tokens)
        self._offer(leaf)
        return leaf

    def _offer(self, node: Node) -> None:
        """Enter `node` into the eviction heap if it may be evicted and is not there yet."""
        if not (node.children or node.locks or node.queued or node.parent is None):
            node.queued = True
            heapq.heappush(self._leaves, (node.used, next(self._ticket), node))

    def _pop_leaf(self) -> Node | None:
        """The least recently used unlocked leaf; entries that time has overtaken are mended on the way."""
        while self._leaves:
            used, _, node = heapq.heappop(self._leaves)
            node.queued = False
            if used == node.used and not (node.children or node.locks or node.parent is None):
                return node
            self._offer(node)
        return None

    def _remove(self, leaf: Node) -> None:
        parent = leaf.parent
        assert parent is not None
        del parent.children[int(leaf.tokens[0])]
        leaf.parent = None
        if parent.parent is not None:
            self._offer(parent)
        elif not parent.children:
            self._roots = {name: root for name, root in self._roots.items() if root is not parent}

    def _drop_if_empty(self, namespace: str, root: Node) -> None:
        if not root.children:
            del self._roots[namespace]


def common_prefix(left: Tokens, right: Tokens) -> int:
    """The number of leading tokens that both have."""
    length = min(len(left), len(right))
    differing = np.flatnonzero(left[:length] != right[:length])
    return int(differing[0]) if differing.size else length
