"""Lists of passages that maps give, as far as they are known before the last of their bodies has ended.

Of the passages with one id a list keeps the first. So what a list begins with is settled as soon as all parts
up to there are known, and a map over it need not wait for the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .evaluate import lift
from .ir import Node, Value
from .merging import first_of_each
from .values import Datum, plain

__all__ = ["MergedLists"]


class MergedLists:
    """The merged lists of one run. `known`: its values."""

    def __init__(self, known: Mapping[Value, Datum]) -> None:
        self._known = known
        self._parts: dict[int, list[Value]] = {}  # by map: the parts of the list that it gives
        self._sources: dict[Value, list[int]] = {}  # the maps that each part that is awaited belongs to
        self._settled: dict[int, list[object]] = {}  # by map: what its list is known to begin with
        self._early: dict[int, Datum] = {}  # items of such lists, whose nodes are new

    @property
    def waited_for(self) -> bool:
        """Whether any list waits for a part."""
        return bool(self._sources)

    def add(self, source: int, part: Value) -> None:
        """The list that a map gives has a further part."""
        self._parts.setdefault(source, []).append(part)
        self._sources.setdefault(part, []).append(source)

    def learned(self, values: Iterable[Value]) -> list[int]:
        """The maps to whose lists these values belong, which are known now."""
        return [source for value in values for source in self._sources.pop(value, ())]

    def settle(self, source: int) -> int | None:
        """How many passages a list is known to begin with; None if it is complete or not a merged one."""
        if source not in self._parts or Value(source) in self._known:
            return None
        passages: list[object] = []
        for part in self._parts[source]:
            if part not in self._known:
                break
            passages += plain(self._known[part])
        self._settled[source] = first_of_each(passages)
        return len(self._settled[source])

    def take(self, items: Value, index: int, item: Value) -> None:
        """A new node gives an item of a list: its value is known early if it is settled."""
        if items not in self._known and items.node in self._settled:
            self._early[item.node] = lift(self._settled[items.node][index])

    def early(self, nodes: Iterable[Node]) -> dict[Value, Datum]:
        """The items among new nodes that are known early; each is said once."""
        return {Value(node.id): self._early.pop(node.id) for node in nodes if node.id in self._early}
