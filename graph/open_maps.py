"""Maps and folds whose bodies are begun one after the other: as items close, and as others end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from .ir import Graph, Value
from .ops.control import Fold, Map

__all__ = ["OpenFold", "OpenMap", "OpenMaps"]

_CONCURRENCY: Final = 64
"""How many bodies of one map run at a time, unless its author says otherwise, and are ahead in a fold."""
_AT_ONCE: Final = 384
"""Nodes of bodies that begin before others have their turn: some tens of milliseconds."""


class _Opened:
    """What maps and folds have in common; what is an item of a map is of a fold a portion of its items.

    `limit`: bodies that may be unfinished; `most`: those that begin before others have their turn.
    """

    def __init__(self, limit: int, most: int) -> None:
        self.limit = limit
        self.most = most
        self.known = 0  # items
        self.complete = False  # there are no more
        self.results: list[Value] = []  # of the bodies begun, in order
        self.unfinished: set[Value] = set()

    @property
    def due(self) -> int:
        """How many further bodies may begin now."""
        return max(0, min(self.known - len(self.results), self.limit - len(self.unfinished)))

    @property
    def all_begun(self) -> bool:
        """Whether every body there will be has begun."""
        return self.complete and len(self.results) == self.known


class OpenMap(_Opened):
    """A map that has begun."""

    def __init__(self, op: Map) -> None:
        super().__init__(op.concurrency or _CONCURRENCY, _at_once(op.body))
        self.op = op


class OpenFold(_Opened):
    """A fold over so many items that goes on with the item `first`, on the state `before` it."""

    def __init__(self, op: Fold, before: Value, first: int, items: int) -> None:
        portion = min(_CONCURRENCY, _at_once(op.body))
        super().__init__(-(-_CONCURRENCY // portion) + 1, 1)  # those ahead, and the one that is gone through
        self.op = op
        self.known, self.complete = -(-(items - first) // portion), True
        self._before = before
        self._first = first
        self._items = items
        self._portion = portion

    @property
    def state(self) -> Value:
        """The state after the bodies that have begun."""
        return self.results[-1] if self.results else self._before

    @property
    def following(self) -> range:
        """The items whose bodies begin together next."""
        begun = self._first + len(self.results) * self._portion
        return range(begun, min(begun + self._portion, self._items))


class OpenMaps:
    """The maps and folds of a run that have begun and not all of whose bodies have. Pure."""

    def __init__(self) -> None:
        self._opened: dict[int, OpenMap | OpenFold] = {}
        self._waiting: dict[Value, list[int]] = {}  # results that they wait for to begin further bodies

    def get(self, node: int) -> OpenMap | OpenFold | None:
        """The map or fold, if it has begun and not all of its bodies have."""
        return self._opened.get(node)

    def open_map(self, node: int, op: Map) -> OpenMap:
        """The map, begun now if it was not before."""
        opened = self._opened.get(node)
        if not isinstance(opened, OpenMap):
            opened = self._opened[node] = OpenMap(op)
        return opened

    def open_fold(self, node: int, fold: OpenFold) -> None:
        """The fold begins."""
        self._opened[node] = fold

    def began(self, node: int, result: Value, *, finished: bool) -> None:
        """A further body has begun, whose result is this value."""
        opened = self._opened[node]
        opened.results.append(result)
        if not finished:
            opened.unfinished.add(result)
            self._waiting.setdefault(result, []).append(node)

    def close(self, node: int) -> None:
        """The map or fold has become something else."""
        del self._opened[node]

    @property
    def waited_for(self) -> bool:
        """Whether any of them waits for the result of a body."""
        return bool(self._waiting)

    def learned(self, values: Iterable[Value]) -> list[int]:
        """Those that may begin further bodies now that these values are known."""
        freed: dict[int, None] = {}
        for value in values:
            for node in self._waiting.pop(value, ()):
                opened = self._opened.get(node)
                if opened is not None:
                    opened.unfinished.discard(value)
                    if opened.due or opened.all_begun:
                        freed[node] = None
        return list(freed)


def _at_once(body: Graph) -> int:
    return max(1, _AT_ONCE // len(body.nodes))
