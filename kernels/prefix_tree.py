"""The prefixes that sequences share, kept while sequences come and go."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from itertools import accumulate
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["Group", "PrefixTree", "SharedPrefixes", "spread"]

T = TypeVar("T", bound=Hashable)


class Group(NamedTuple):
    """A span of keys that several sequences share."""

    members: tuple[int, ...]  # sequences of the batch
    start: int  # the span is the positions start..end-1 of each
    end: int


class SharedPrefixes(NamedTuple):
    """A batch's shared spans; each key of a sequence is in one group of it or in its own part."""

    groups: tuple[Group, ...]
    own_starts: tuple[int, ...]  # of each sequence: the first key that no group covers

    @property
    def saved(self) -> int:
        """How many keys fewer are read than by each sequence for itself."""
        return sum((len(group.members) - 1) * (group.end - group.start) for group in self.groups)


def spread(
    prefixes: SharedPrefixes, counts: Sequence[int], computed: Sequence[int], *, min_keys: int
) -> SharedPrefixes:
    """The spans of a batch in which each sequence has several queries, as if each were a sequence.

    Queries of one sequence share its first `computed` keys, if these are `min_keys` more than others share.
    """
    ends = list(accumulate(counts))
    rows = [range(end - count, end) for end, count in zip(ends, counts, strict=True)]
    groups = [
        Group(tuple(row for member in group.members for row in rows[member]), group.start, group.end)
        for group in prefixes.groups
    ]
    starts: list[int] = []
    for own, start, end in zip(rows, prefixes.own_starts, computed, strict=True):
        if len(own) > 1 and end - start >= min_keys:
            groups.append(Group(tuple(own), start, end))
            start = end
        starts.extend([start] * len(own))
    return SharedPrefixes(tuple(sorted(groups)), tuple(starts))


class _Node(Generic[T]):
    """A run of slots, and the sequences whose lists lead through it."""

    __slots__ = ("children", "end", "members", "parent", "slots", "start")

    def __init__(self, parent: _Node[T] | None, start: int, slots: NDArray[np.integer]) -> None:
        self.parent = parent
        self.start = start
        self.end = start + len(slots)
        self.slots = slots  # at the positions start..end-1
        self.children: dict[int, _Node[T]] = {}  # by their first slots
        self.members: dict[T, None] = {}  # a set that keeps its order


class PrefixTree(Generic[T]):
    """A radix tree over the slot lists of sequences; adding or removing one costs no more than its path."""

    def __init__(self) -> None:
        self._root: _Node[T] = _Node(None, 0, np.empty(0, dtype=np.int64))
        self._ends: dict[T, _Node[T]] = {}

    def add(self, sequence: T, slots: NDArray[np.integer]) -> None:
        """Add a sequence that is not in it. `slots` is copied where it is kept."""
        node = self._root
        node.members[sequence] = None
        while node.end < len(slots):
            child = node.children.get(int(slots[node.end]))
            if child is None:
                child = _Node(node, node.end, slots[node.end :].copy())
                node.children[int(slots[node.end])] = child
            else:
                child = self._cut(child, _common(child.slots, slots[node.end :]))
            child.members[sequence] = None
            node = child
        self._ends[sequence] = node

    def remove(self, sequence: T) -> None:
        """Take a sequence out; raises KeyError if it is not in it."""
        node = self._ends.pop(sequence)
        while node.parent is not None:
            del node.members[sequence]
            if not node.members:
                del node.parent.children[int(node.slots[0])]
            node = node.parent
        del node.members[sequence]

    def shared(self, batch: Sequence[T], *, min_keys: int) -> SharedPrefixes:
        """The spans of at least `min_keys` keys that are shared; `batch` is all sequences, in any order."""
        index = {sequence: at for at, sequence in enumerate(batch)}
        groups: list[Group] = []
        starts = dict.fromkeys(batch, 0)
        pending = [(self._root, 0)]  # a node, and the first key that no group covers on the way to its end
        while pending:
            node, start = pending.pop()
            if len(node.members) < 2:
                continue
            if any(len(child.members) == len(node.members) for child in node.children.values()):
                (only,) = node.children.values()  # nobody leaves here: the span goes on
                pending.append((only, start))
                continue
            if node.end - start >= min_keys:
                members = tuple(sorted(index[sequence] for sequence in node.members))
                groups.append(Group(members, start, node.end))
                start = node.end
                starts.update(dict.fromkeys(node.members, start))
            pending.extend((child, start) for child in node.children.values())
        return SharedPrefixes(tuple(sorted(groups)), tuple(starts[sequence] for sequence in batch))

    def __iter__(self) -> Iterator[T]:
        return iter(self._ends)

    def __contains__(self, sequence: T) -> bool:
        return sequence in self._ends

    def _cut(self, node: _Node[T], length: int) -> _Node[T]:
        """The node of the first `length` slots of a node, which becomes one of its own if it is not."""
        if length == len(node.slots):
            return node
        assert node.parent is not None
        upper = _Node(node.parent, node.start, node.slots[:length])
        upper.members = dict(node.members)
        upper.children[int(node.slots[length])] = node
        node.parent.children[int(node.slots[0])] = upper
        node.parent, node.start, node.slots = upper, node.start + length, node.slots[length:]
        return upper


def _common(left: NDArray[np.integer], right: NDArray[np.integer]) -> int:
    """The number of leading slots that both have."""
    length = min(len(left), len(right))
    differing = np.flatnonzero(left[:length] != right[:length])
    return int(differing[0]) if differing.size else length
