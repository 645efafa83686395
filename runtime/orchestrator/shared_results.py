"""The results that all runs of a server may take, and which run is computing what others wait for."""

from __future__ import annotations

import sys
from collections import deque
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from weft.graph.ops.base import Op
from weft.graph.values import Datum, Json, TextValue, VectorsValue
from weft.runtime.results import CacheStats, ResultCache

from .fleet import Fleet

__all__ = ["Asker", "Kept", "Key", "Results"]

Kept = tuple[Datum, ...]
"""Results without contexts."""

_VALUE_BYTES: Final = 256  # of a value besides its content, generously


class Key(NamedTuple):
    """What results are kept under."""

    namespace: str
    digest: bytes


class Asker(NamedTuple):
    """A node of a run that waits for what another one computes."""

    run: str
    node: int


@dataclass(slots=True)
class _Flight:
    leader: str  # the run that computes
    followers: deque[Asker] = field(default_factory=deque)


class Results:
    """Kept results, at most `capacity` bytes, and computations that others wait for."""

    def __init__(self, fleet: Fleet, capacity: int) -> None:
        self._fleet = fleet
        self._cache: ResultCache[Kept] = ResultCache(capacity)
        self._flights: dict[Key, _Flight] = {}

    @property
    def stats(self) -> CacheStats:
        """The counters of what is kept."""
        return self._cache.stats

    def origin(self, op: Op) -> str:
        """What computes a primitive, so that results of other models are never taken for its own."""
        return self._fleet.origin(op)

    def get(self, key: Key) -> Kept | None:
        """What was kept."""
        return self._cache.get(*key)

    def put(self, key: Key, results: Kept) -> None:
        """Keep results for equal work to come."""
        self._cache.put(*key, results, sum(map(_size, results)))

    def lead(self, key: Key, run: str) -> bool:
        """Whether the run is to compute this, as nobody does; others may follow it then."""
        if key in self._flights:
            return False
        self._flights[key] = _Flight(run)
        return True

    def follow(self, key: Key, asker: Asker) -> None:
        """Let the asker be handed what is being computed."""
        self._flights[key].followers.append(asker)

    def landed(self, key: Key) -> tuple[Asker, ...]:
        """What led is computed: those who wait for it."""
        flight = self._flights.pop(key, None)
        return tuple(flight.followers) if flight is not None else ()

    def abandon(self, key: Key, run: str) -> tuple[Asker, ...]:
        """A run will not compute what it led: those who waited for it must ask again."""
        flight = self._flights.get(key)
        return self.landed(key) if flight is not None and flight.leader == run else ()


def _size(datum: Datum) -> int:
    match datum:
        case TextValue(text=text, ids=ids):
            content = sys.getsizeof(text) + sys.getsizeof(ids)
        case VectorsValue(array=array):
            content = array.nbytes
        case Json(value=value):
            content = _json_size(value)
        case _:
            content = 0
    return _VALUE_BYTES + content


def _json_size(value: object) -> int:
    size = sys.getsizeof(value)
    if isinstance(value, dict):
        return size + sum(_json_size(key) + _json_size(item) for key, item in value.items())
    return size + sum(map(_json_size, value)) if isinstance(value, list) else size
