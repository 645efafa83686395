"""A radix tree over token ids that maps every cached prefix to the KV slots that hold it.

The tree is RadixAttention's (Zheng et al., "SGLang", NeurIPS 2024, section 3) at token granularity: an edge
is a run of tokens, siblings differ in their first token, and a path from a root spells a cached prefix.
Each namespace has a root of its own, so equal tokens under different namespaces never share slots.

A node's KV lies on the *device*, on the *host*, or on both. What is on the device hangs below nodes that
are on it, too: a path from a root is a part on the device, and then a part on the host. Eviction from the
device moves KV to the host, if there is room or older KV to be forgotten; the tree says which slots are to
be copied.

Callers may say what they know of the future of a prefix. This orders eviction and decides nothing else: what
is evictable stays evictable, and what is used is not advised any more.

It is a plain data structure: no threads, no tensors, and the clock comes from the caller.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from .advice import Advice, Dead, Pin
from .eviction import EvictionQueue
from .node import HostSlots, Node, Tokens, may_be_forgotten, may_die, may_leave_device, on_both

__all__ = [
    "Eviction",
    "Expected",
    "HostSlots",
    "Insertion",
    "Match",
    "Node",
    "RadixTree",
    "Tokens",
    "common_prefix",
]

_EMPTY: Tokens = np.empty(0, dtype=np.int64)


class Match(NamedTuple):
    """The longest cached prefix of some tokens: a part on the device, and behind it a part on the host."""

    slots: Tokens  # of the matched tokens on the device, in order
    node: Node  # where that part ends; lock it before anything may be evicted
    host: Tokens  # the host's slots of the tokens behind them
    end: Node  # where the match ends


class Expected(NamedTuple):
    """A prefix that is expected to be used, the end of which has left the device."""

    namespace: str
    tokens: Tokens
    match: Match  # of all of them


class Insertion(NamedTuple):
    """What became of inserted tokens."""

    slots: Tokens  # the tree's slots of all the tokens: earlier ones where the tree had them already
    node: Node  # where the tokens end
    duplicates: Tokens  # those of the caller's slots that the tree did not take; the caller frees them


class Eviction(NamedTuple):
    """What left the device."""

    slots: Tokens  # that are free now
    moved: Tokens  # those of them whose KV the tree keeps on the host,
    host: Tokens  # and where there, one by one; it must be copied before the slots are used again


class RadixTree:
    """Cached prefixes with locks, and eviction of leaves by advice and last use, over one memory or two."""

    def __init__(self, host: HostSlots | None = None) -> None:
        self._host = host
        self._roots: dict[str, Node] = {}
        self._on_device = EvictionQueue(may_leave_device)
        self._on_both = EvictionQueue(on_both)
        self._on_host = EvictionQueue(may_be_forgotten)
        self._pins: list[tuple[float, int, Node, Pin]] = []  # a heap by when they turn; may be stale
        self._pinned = itertools.count()
        self._due: dict[Node, None] = {}  # whose pins have begun off the device; may be stale
        self._now = 0.0  # the latest that callers have said
        self.evictable = 0
        """Tokens cached on the device that no lock protects."""
        self.locked = 0
        """Tokens cached on the device on the path of some lock."""
        self.met = 0
        """Tokens that were used while a pin of theirs held."""
        self.broken = 0
        """Tokens that left the device although they were pinned: there was nothing else."""

    @property
    def size(self) -> int:
        """All tokens cached on the device."""
        return self.evictable + self.locked

    def match(self, namespace: str, tokens: Tokens, now: float) -> Match:
        """Find the longest cached prefix of `tokens` and mark it, and only it, as used at `now`."""
        root = self._roots.get(namespace) or Node(_EMPTY, _EMPTY, None, now)
        path = self._use(self._descend(root, tokens), now)
        return _match(path)

    def expected(self, now: float) -> Expected | None:
        """The prefix used last of those whose pins began when a part of them was on the host alone.

        It does not count as used.
        """
        self._now = max(self._now, now)
        self._turn_pins()
        self._due = {node: None for node in self._due if _is_due(node)}
        if not self._due:
            return None
        node = max(self._due, key=lambda node: node.used)
        while below := [child for child in node.children.values() if child in self._due]:
            node = below[0]
        path = [node]
        while (parent := path[-1].parent) is not None:
            path.append(parent)
        path.reverse()
        namespace = next(name for name, root in self._roots.items() if root is path[0])
        return Expected(namespace, _joined([node.tokens for node in path]), _match(path))

    @property
    def turns(self) -> float | None:
        """When a pin begins or ends next, if any may."""
        return self._pins[0][0] if self._pins else None

    def insert(
        self, namespace: str, tokens: Tokens, slots: Tokens, now: float, *, uses: bool = True
    ) -> Insertion:
        """Add `tokens`, held by `slots`; where the tree has them on the device, its own slots stay.

        They count as used at `now`, unless not `uses`.
        """
        if len(tokens) != len(slots):
            raise ValueError(f"{len(tokens)} tokens cannot be held by {len(slots)} slots")
        root = self._roots.setdefault(namespace, Node(_EMPTY, _EMPTY, None, now))
        path = self._descend(root, tokens)
        if uses:
            self._use(path, now)
        at = 0
        for node in path:
            if node.slots is None:
                self._settle(node, slots[at : at + len(node.tokens)].copy())
            at += len(node.tokens)
        if at < len(tokens):
            leaf = Node(tokens[at:].copy(), None, path[-1], now)
            path[-1].children[int(tokens[at])] = leaf
            self._settle(leaf, slots[at:].copy())
            path.append(leaf)
        elif path[-1] is root:
            self._drop_if_empty(root)
        held = _joined([node.slots for node in path])
        return Insertion(held, path[-1], slots[held != slots])

    def lock(self, node: Node) -> None:
        """Protect the path from the root to `node` against eviction and forgetting; locks count."""
        while node.parent is not None:
            if node.locks == 0 and node.slots is not None:
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
            if node.locks == 0 and node.slots is not None:
                self.locked -= len(node.tokens)
                self.evictable += len(node.tokens)
            self._offer(node)
            node = node.parent

    def advise(self, namespace: str, tokens: Tokens, advice: Advice, now: float) -> None:
        """Say of a prefix what is known of its future; nothing happens to what is not cached of it.

        A pin holds for the whole path, together with one that is there. Death concerns the end of the
        path alone, behind its head, as far as nobody uses it, nothing else hangs below it and no pin says
        otherwise.
        """
        self._now = max(self._now, now)
        root = self._roots.get(namespace)
        if root is None:
            return
        head = self._descend(root, tokens[: advice.head])[-1] if isinstance(advice, Dead) else None
        for node in reversed(self._descend(root, tokens)[1:]):
            if isinstance(advice, Dead) and (node is head or not may_die(node)):
                return
            if isinstance(advice, Pin) and isinstance(node.advice, Pin):
                self._set_advice(node, advice.together(node.advice))
            else:
                self._set_advice(node, advice)

    def evict(self, count: int, *, spares: bool = False) -> Eviction:
        """Take up to `count` unlocked tokens off the device: leaves in the order of `eviction_order`.

        Pins begin and expire by the latest time that any call has named. A leaf larger than what is left to
        evict loses only its tail: its head stays where it is. With `spares`, what is expected now stays, too.
        """
        freed: list[Tokens] = []
        moved: list[Tokens] = []
        host: list[Tokens] = []
        self._turn_pins()
        while count > 0 and (node := self._on_device.pop()) is not None:
            if spares and _has_begun(node.advice):
                self._offer(node)
                break
            if len(node.tokens) > count:
                self._split(node, len(node.tokens) - count)
            count -= len(node.tokens)
            self.broken += len(node.tokens) if isinstance(node.advice, Pin) else 0
            slots = self._unsettle(node)
            freed.append(slots)
            if node.host is None:
                host.append(self._move_to_host(node))
                moved.append(slots[: len(host[-1])])
        return Eviction(_joined(freed), _joined(moved), _joined(host))

    def flush(self) -> Tokens:
        """Forget all that no lock protects, on both sides; returns the slots of the device."""
        freed: list[Tokens] = []
        while (node := self._on_both.pop() or self._on_host.pop()) is not None:
            self._forget(node)
        while (node := self._on_device.pop()) is not None:
            freed.append(self._unsettle(node))
            self._remove(node)
        return _joined(freed)

    def nodes(self) -> Iterator[tuple[str, Node]]:
        """All nodes but the roots, each with its namespace."""
        for namespace, root in self._roots.items():
            pending = list(root.children.values())
            while pending:
                node = pending.pop()
                yield namespace, node
                pending.extend(node.children.values())

    def _use(self, path: list[Node], now: float) -> list[Node]:
        """Refresh a path. What was advised has been fulfilled or refuted."""
        self._now = max(self._now, now)
        for node in path:
            node.used = now
            if node.advice is not None:
                self.met += len(node.tokens) if isinstance(node.advice, Pin) else 0
                node.advice = None
                self._offer(node)
        return path

    def _set_advice(self, node: Node, advice: Advice) -> None:
        if isinstance(advice, Pin) and advice != node.advice:
            turns = min(advice.begins or advice.expires, advice.expires)
            heapq.heappush(self._pins, (turns, next(self._pinned), node, advice))
        node.advice = advice
        self._offer(node)

    def _turn_pins(self) -> None:
        """Let pins begin and expire."""
        while self._pins and self._pins[0][0] <= self._now:
            _, _, node, pin = heapq.heappop(self._pins)
            if node.advice != pin:
                continue
            self._set_advice(node, Pin(pin.expires) if pin.expires > self._now else None)
            if _is_due(node):
                self._due[node] = None

    def _descend(self, node: Node, tokens: Tokens) -> list[Node]:
        """The path from a root along `tokens`, split where they leave an edge."""
        path = [node]
        at = 0
        while at < len(tokens) and (child := node.children.get(int(tokens[at]))) is not None:
            shared = common_prefix(child.tokens, tokens[at:])
            node = child if shared == len(child.tokens) else self._split(child, shared)
            path.append(node)
            at += shared
        return path

    def _split(self, node: Node, at: int) -> Node:
        """Cut an edge after `at` tokens; `node` stays the lower part, so that locks on it remain right."""
        assert node.parent is not None
        upper = Node(_trimmed(node.tokens[:at]), None, node.parent, node.used)
        upper.locks = node.locks
        upper.children[int(node.tokens[at])] = node
        node.parent.children[int(node.tokens[0])] = upper
        node.tokens, node.parent = _trimmed(node.tokens[at:]), upper
        if node.slots is not None:
            upper.slots, node.slots = _trimmed(node.slots[:at]), _trimmed(node.slots[at:])
            upper.resident = 1
        if node.host is not None:
            upper.host, node.host = _trimmed(node.host[:at]), _trimmed(node.host[at:])
        self._set_advice(upper, node.advice)
        if node in self._due:
            self._due[upper] = None
        return upper

    def _settle(self, node: Node, slots: Tokens) -> None:
        """Let `node` be on the device; its parent is."""
        assert node.parent is not None
        node.slots = slots
        node.parent.resident += 1
        if node.locks:
            self.locked += len(slots)
        else:
            self.evictable += len(slots)
        self._offer(node)

    def _unsettle(self, node: Node) -> Tokens:
        """Take an unlocked node without children on the device off it."""
        assert node.parent is not None
        assert node.slots is not None
        slots, node.slots = node.slots, None
        node.parent.resident -= 1
        self.evictable -= len(slots)
        self._offer(node)
        self._offer(node.parent)
        return slots

    def _move_to_host(self, node: Node) -> Tokens:
        """Give a node that is nowhere slots on the host, for as many of its first tokens as find room.

        The others are forgotten; by then, all that hung below them has been, to make room.
        """
        room = self._make_room(len(node.tokens))
        kept = node if room == len(node.tokens) else self._split(node, room) if room else None
        if kept is not node:
            self._remove(node)
        if kept is None or self._host is None:
            return _EMPTY
        kept.host = self._host.allocate(room)
        self._offer(kept)
        return kept.host

    def _make_room(self, count: int) -> int:
        """Forget what the host need not hold until it has room for `count` tokens; for how many it has."""
        if self._host is None:
            return 0
        while (missing := count - self._host.free) > 0:
            node = self._on_both.pop() or self._on_host.pop()
            if node is None:
                break
            if len(node.tokens) > missing:
                self._split(node, len(node.tokens) - missing)
            self._forget(node)
        return min(self._host.free, count)

    def _forget(self, node: Node) -> None:
        """Drop what the host holds of a node; one that is nowhere else leaves the tree."""
        assert self._host is not None
        assert node.host is not None
        self._host.release(node.host)
        node.host = None
        if node.slots is None:
            self._remove(node)

    def _offer(self, node: Node) -> None:
        """Enter a node wherever it may be given up."""
        self._on_device.offer(node)
        if self._host is not None:
            self._on_both.offer(node)
            self._on_host.offer(node)

    def _remove(self, node: Node) -> None:
        """Cut off a leaf that is nowhere."""
        parent = node.parent
        assert parent is not None
        assert not node.children
        del parent.children[int(node.tokens[0])]
        node.parent = None
        if parent.parent is not None:
            self._offer(parent)
        else:
            self._drop_if_empty(parent)

    def _drop_if_empty(self, root: Node) -> None:
        if not root.children:
            self._roots = {name: other for name, other in self._roots.items() if other is not root}


def _match(path: Sequence[Node]) -> Match:
    device = [node for node in path if node.slots is not None]
    return Match(
        _joined([node.slots for node in device]),
        device[-1],
        _joined([node.host for node in path[len(device) :]]),
        path[-1],
    )


def _has_begun(advice: Advice) -> bool:
    return isinstance(advice, Pin) and not advice.begins


def _is_due(node: Node) -> bool:
    return node.slots is None and node.parent is not None and _has_begun(node.advice)


def _trimmed(part: Tokens) -> Tokens:
    """A part of an array, copied if it would keep alive more than twice as much as it holds."""
    return part.copy() if part.base is not None and part.base.size > 2 * part.size else part


def _joined(parts: Sequence[Tokens | None]) -> Tokens:
    return np.concatenate([part for part in parts if part is not None] or [_EMPTY])


def common_prefix(left: Tokens, right: Tokens) -> int:
    """The number of leading tokens that both have."""
    length = min(len(left), len(right))
    differing = np.flatnonzero(left[:length] != right[:length])
    return int(differing[0]) if differing.size else length
