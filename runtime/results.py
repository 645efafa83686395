"""Results of deterministic work, kept for equal work to come. Pure: no clock, no I/O."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

__all__ = ["CacheStats", "ResultCache"]

Result = TypeVar("Result")


class CacheStats(NamedTuple):
    """What a cache has done since it exists, and what it holds now."""

    hits: int
    misses: int
    evictions: int
    entries: int
    size: int  # bytes


@dataclass(slots=True)
class _Share(Generic[Result]):
    """What is kept for one tenant, least recently used first; each with its bytes."""

    entries: OrderedDict[bytes, tuple[Result, int]] = field(default_factory=OrderedDict)
    size: int = 0


class ResultCache(Generic[Result]):
    """At most `capacity` bytes of results, by tenant and key; 0 keeps nothing.

    No tenant gets what another one's work gave. When there is no room, the tenant that holds most gives up
    what it has used least recently.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._shares: dict[str, _Share[Result]] = {}
        self._size = 0
        self._hits = self._misses = self._evictions = 0

    @property
    def stats(self) -> CacheStats:
        """The counters."""
        entries = sum(len(share.entries) for share in self._shares.values())
        return CacheStats(self._hits, self._misses, self._evictions, entries, self._size)

    def get(self, tenant: str, key: bytes) -> Result | None:
        """The result that was kept under `key`, or None."""
        share = self._shares.get(tenant)
        found = share.entries.get(key) if share is not None else None
        if share is None or found is None:
            self._misses += 1
            return None
        share.entries.move_to_end(key)
        self._hits += 1
        return found[0]

    def put(self, tenant: str, key: bytes, result: Result, size: int) -> None:
        """Keep a result of so many bytes, unless it alone would take more than half of the room."""
        if size > self._capacity // 2:
            return
        share = self._shares.setdefault(tenant, _Share())
        self._remove(share, key)
        share.entries[key] = result, size
        share.size += size
        self._size += size
        while self._size > self._capacity:
            self._evict()

    def _evict(self) -> None:
        tenant, largest = max(self._shares.items(), key=lambda entry: entry[1].size)
        self._remove(largest, next(iter(largest.entries)))
        self._evictions += 1
        if not largest.entries:
            del self._shares[tenant]

    def _remove(self, share: _Share[Result], key: bytes) -> None:
        _, size = share.entries.pop(key, (None, 0))
        share.size -= size
        self._size -= size
