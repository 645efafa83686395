"""Maps whose bodies are begun one after the other: as items close, and as others end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from .ir import Value

__all__ = ["CONCURRENCY", "OpenMap", "OpenMaps"]

CONCURRENCY: Final = 64
"""How many bodies of one map run at a time, unless its author says otherwise."""


@dataclass(slots=True)
class OpenMap:
    """A map that has begun."""

    limit: int
    known: int = 0  # items
    complete: bool = False  # there are no more
    results: list[Value] = field(default_factory=list)  # of the bodies begun, in order
    unfinished: set[Value] = field(default_factory=set)

    @property
    def due(self) -> int:
        """How many further bodies may begin now."""
        return max(0, min(self.known - len(self.results), self.limit - len(self.unfinished)))

    @property
    def all_begun(self) -> bool:
        """Whether every body there will be has begun."""
        return self.complete and len(self.results) == self.known


class OpenMaps:
    """The maps of a run that have begun and not all of whose bodies have. Pure."""

    def __init__(self) -> None:
        self._maps: dict[int, OpenMap] = {}
        self._waiting: dict[Value, list[int]] = {}  # results that maps wait for to begin further bodies

    def open(self, node: int, limit: int) -> OpenMap:
        """The map, begun now if it was not before."""
        if node not in self._maps:
            self._maps[node] = OpenMap(limit or CONCURRENCY)
        return self._maps[node]

    def is_open(self, node: int) -> bool:
        """Whether the map has begun, and not all of its bodies have."""
        return node in self._maps

    def began(self, node: int, result: Value, *, finished: bool) -> None:
        """A further body has begun, whose result is this value."""
        opened = self._maps[node]
        opened.results.append(result)
        if not finished:
            opened.unfinished.add(result)
            self._waiting.setdefault(result, []).append(node)

    def close(self, node: int) -> None:
        """The map has become something else."""
        del self._maps[node]

    @property
    def waited_for(self) -> bool:
        """Whether any map waits for the result of a body."""
        return bool(self._waiting)

    def learned(self, values: Iterable[Value]) -> list[int]:
        """The maps that may begin further bodies now that these values are known."""
        freed: dict[int, None] = {}
        for value in values:
            for node in self._waiting.pop(value, ()):
                opened = self._maps.get(node)
                if opened is not None:
                    opened.unfinished.discard(value)
                    if opened.due or opened.all_begun:
                        freed[node] = None
        return list(freed)
