"""Maps and folds whose bodies are begun one after the other: as items close, and as others end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from .ir import Graph, Node, Value
from .ops.control import Fold, Map

__all__ = ["OpenMap", "OpenMaps", "portion"]

_CONCURRENCY: Final = 64
"""How many bodies of one map run at a time, unless its author says otherwise, and are ahead in a fold."""
_AT_ONCE: Final = 384
"""Nodes of bodies that begin before others have their turn: some tens of milliseconds."""


@dataclass(slots=True)
class OpenMap:
    """A map that has begun, or a fold: what an item is for a map is for a fold a portion of its items."""

    limit: int
    most: int  # bodies that begin before others have their turn
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
    """The maps and folds of a run that have begun and not all of whose bodies have. Pure."""

    def __init__(self) -> None:
        self._maps: dict[int, OpenMap] = {}
        self._waiting: dict[Value, list[int]] = {}  # results that maps wait for to begin further bodies

    def open(self, control: Node) -> OpenMap:
        """The map or fold, begun now if it was not before."""
        if control.id not in self._maps:
            self._maps[control.id] = _begun(control)
        return self._maps[control.id]

    def is_open(self, node: int) -> bool:
        """Whether the map or fold has begun, and not all of its bodies have."""
        return node in self._maps

    def began(self, node: int, result: Value, *, finished: bool) -> None:
        """A further body has begun, whose result is this value."""
        opened = self._maps[node]
        opened.results.append(result)
        if not finished:
            opened.unfinished.add(result)
            self._waiting.setdefault(result, []).append(node)

    def close(self, node: int) -> None:
        """The map or fold has become something else."""
        del self._maps[node]

    @property
    def waited_for(self) -> bool:
        """Whether any of them waits for the result of a body."""
        return bool(self._waiting)

    def learned(self, values: Iterable[Value]) -> list[int]:
        """Those that may begin further bodies now that these values are known."""
        freed: dict[int, None] = {}
        for value in values:
            for node in self._waiting.pop(value, ()):
                opened = self._maps.get(node)
                if opened is not None:
                    opened.unfinished.discard(value)
                    if opened.due or opened.all_begun:
                        freed[node] = None
        return list(freed)


def portion(body: Graph) -> int:
    """The items of a fold whose bodies begin together."""
    return min(_CONCURRENCY, _at_once(body))


def _at_once(body: Graph) -> int:
    return max(1, _AT_ONCE // len(body.nodes))


def _begun(control: Node) -> OpenMap:
    match control.op:
        case Map(body=body, concurrency=concurrency):
            return OpenMap(concurrency or _CONCURRENCY, _at_once(body))
        case Fold(body=body):  # of as many portions as are ahead, and of the one that is gone through
            return OpenMap(-(-_CONCURRENCY // portion(body)) + 1, 1)
        case _:
            raise TypeError(f"{control.where()} has no bodies that begin one after the other")
