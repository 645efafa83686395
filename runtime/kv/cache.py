"""Bookkeeping of the KV pool: who owns each slot.

A slot is *free*, *running* (owned by one request), or *cached* (owned by the radix tree, and shared by all
requests that matched it); `free + cached + running == total` always. Pure: slot numbers in, slot numbers out;
where there is a host tier, it is told what to copy before the slots concerned are handed out.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from .advice import Advice
from .radix import Match, Node, RadixTree, Tokens
from .runs import RunAllocator
from .slots import SlotAllocator
from .tier import HostTier, Restore

__all__ = ["KVCache", "Published"]

_PIECE: Final = 256  # tokens that leave for the host at once, or come back ahead of their use, but
_PIECES: Final = 16  # no more than this part of the pool


class Published(NamedTuple):
    """The result of handing a request's KV to the tree."""

    node: Node  # where its tokens end, locked once for the caller
    slots: Tokens  # the slots that hold its tokens from now on; all of them are the tree's


class KVCache:
    """One pool of `total` slots for running requests and for the prefix cache.

    What is evicted from it goes to the host `tier`, if there is one, and can be restored from there.
    """

    def __init__(self, total: int, tier: HostTier | None = None) -> None:
        self.tier = tier
        self._allocator = SlotAllocator(total)
        self._host = RunAllocator(tier.slots) if tier else None
        self._tree = RadixTree(self._host)
        self.running = 0
        """Slots owned by running requests, and by restores."""

    @property
    def total(self) -> int:
        """All slots of the pool."""
        return self._allocator.total

    @property
    def free(self) -> int:
        """Slots that hold nothing."""
        return self._allocator.free

    @property
    def cached(self) -> int:
        """Slots owned by the tree, locked or not."""
        return self._tree.size

    @property
    def on_host(self) -> int:
        """Tokens whose KV the host holds, whether the device holds it, too, or not."""
        return self._host.total - self._host.free if self._host else 0

    @property
    def available(self) -> int:
        """Slots that `allocate` can supply now: free ones and those that may be evicted."""
        return self._allocator.free + self._tree.evictable

    def match(self, namespace: str, tokens: Tokens, now: float) -> Match:
        """The longest cached prefix of `tokens`; lock its node before the next `allocate`."""
        return self._tree.match(namespace, tokens, now)

    @property
    def pins_met(self) -> int:
        """Tokens that were used while a pin of theirs held."""
        return self._tree.met

    @property
    def pins_broken(self) -> int:
        """Tokens that were evicted although they were pinned."""
        return self._tree.broken

    def advise(self, namespace: str, tokens: Tokens, advice: Advice, now: float) -> None:
        """Say what is known of the future of a prefix; see `RadixTree.advise`."""
        self._tree.advise(namespace, tokens, advice, now)

    def lock(self, node: Node) -> None:
        """Keep the prefix that ends at `node` from being evicted."""
        self._tree.lock(node)

    def unlock(self, node: Node) -> None:
        """Take back one `lock` or one `publish` of `node`."""
        self._tree.unlock(node)

    def allocate(self, count: int) -> Tokens:
        """Take `count` slots for a running request, evicting cached ones where needed.

        Raises `MemoryError` if `count` exceeds `available`.
        """
        if count > self.available:
            raise MemoryError(f"{count} KV slots asked for, {self.available} of {self.total} are available")
        if count > self.free:
            self._evict(count - self.free)
        self.running += count
        return self._allocator.allocate(count)

    def release(self, slots: Tokens) -> None:
        """Free slots of a running request."""
        self._allocator.release(slots)
        self.running -= len(slots)

    def flush(self) -> None:
        """Forget all that is cached and that nobody has locked."""
        self._allocator.release(self._tree.flush())

    def publish(
        self, namespace: str, tokens: Tokens, slots: Tokens, shared: int, now: float, *, uses: bool = True
    ) -> Published:
        """Hand a request's KV to the tree, freeing what the tree holds already.

        The first `shared` slots are the tree's own (locked by the caller), the rest the caller's. It counts
        as used at `now`, unless not `uses`.
        """
        inserted = self._tree.insert(namespace, tokens, slots, now, uses=uses)
        self._tree.lock(inserted.node)
        self._allocator.release(inserted.duplicates)
        self.running -= len(slots) - shared
        return Published(inserted.node, inserted.slots)

    def prefetch(self, most: int, now: float) -> Restore | None:
        """Begin to copy back what is expected to be used, into slots that nothing else so expected holds.

        No more than `most` tokens. None: there is nothing, or too little room.
        """
        expected = self._tree.expected(now)
        if expected is None:
            return None
        namespace, tokens, match = expected
        most = min(most, len(match.host))
        self._tree.lock(match.end)
        if most > self.free:
            self._evict(most - self.free, spares=True)
        self._tree.unlock(match.end)
        count = min(most, self.free)
        if count < max(min(most, self._least), 1):
            return None
        return self.restore(namespace, tokens, match._replace(host=match.host[:count]), ahead=True)

    @property
    def wakes(self) -> float | None:
        """When there may be something to prefetch next, unless other calls come first."""
        return self._tree.turns if self.on_host else None

    def restore(self, namespace: str, tokens: Tokens, match: Match, *, ahead: bool = False) -> Restore:
        """Begin to copy back what a match of `tokens` found on the host; `settle` ends it.

        Raises `MemoryError` if there are too few slots available.
        """
        assert self.tier is not None
        self._tree.lock(match.end)
        try:
            new = self.allocate(len(match.host))
            self._tree.lock(match.node)
        finally:
            self._tree.unlock(match.end)
        slots = np.concatenate([match.slots, new])
        arrival = self.tier.load(match.host, new)
        return Restore(namespace, tokens[: len(slots)], slots, len(match.slots), match.node, arrival, ahead)

    def settle(self, restore: Restore, now: float) -> None:
        """Let the tree have what has been restored; the device waits for what is still on its way."""
        restore.arrival.await_on_device()
        published = self.publish(
            restore.namespace, restore.tokens, restore.slots, restore.shared, now, uses=not restore.ahead
        )
        self._tree.unlock(published.node)
        self._tree.unlock(restore.node)

    @property
    def _least(self) -> int:
        """Tokens that are worth a transfer."""
        return min(_PIECE, self.total // _PIECES) if self.tier else 0

    def _evict(self, count: int, *, spares: bool = False) -> None:
        """Free at least so many slots, if not `spares`; what goes to the host goes in pieces."""
        evicted = self._tree.evict(max(count, self._least), spares=spares)
        if self.tier is not None and len(evicted.moved):
            self.tier.save(evicted.moved, evicted.host)
        self._allocator.release(evicted.slots)

    def check(self) -> None:
        """Verify, slot by slot, that each has one owner; raises `AssertionError`."""
        nodes = [node for _, node in self._tree.nodes()]
        held = [node.slots for node in nodes if node.slots is not None]
        cached = np.concatenate(held) if held else np.empty(0, dtype=np.int64)
        owned = np.concatenate([self._allocator.free_slots(), cached])
        assert len(cached) == self.cached, f"the tree holds {len(cached)} slots and counts {self.cached}"
        assert len(np.unique(owned)) == len(owned), "a slot is free and cached at once, or twice either"
        assert len(owned) + self.running == self.total, (
            f"free {self.free} + cached {self.cached} + running {self.running} != total {self.total}"
        )
        on_host = [node.host for node in nodes if node.host is not None]
        if self._host is not None:
            both = np.sort(np.concatenate([self._host.free_slots(), *on_host]))
            assert np.array_equal(both, np.arange(self._host.total)), "a slot of the host has not one owner"
        for node in nodes:
            parent = node.parent
            assert node.slots is not None or node.host is not None, "a node is nowhere"
            assert parent is not None
            assert node.slots is None or parent.slots is not None, "a parent is not on the device"
