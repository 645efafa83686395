"""Which sequences of a decode batch share which keys, so that shared keys are read once for all of them.

Sequences share a prefix where their slot lists begin alike. The prefixes form a tree; each edge of it, a
span of keys with the sequences below, is one group, whose queries attend the span together. The parts are
merged by log-sum-exp (Juravsky et al., "Hydragen", 2024; FlashInfer's cascade; Parrot, OSDI 2024). Pure but
for the final transfer to the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from .prefix_tree import PrefixTree, SharedPrefixes

__all__ = [
    "Capacity",
    "SharedPlan",
    "cut_shared",
    "find_shared_prefixes",
    "plan_shared",
]

MIN_KEYS: Final = 128  # a shorter span costs more in merging than its single reading saves
_PROGRAMS: Final = 528  # of a kernel, that fill a large device


class Capacity(NamedTuple):
    """How much a plan has room for, so that a CUDA graph can read one plan after another."""

    batch: int  # sequences
    items: int  # work items
    parts: int  # partial outputs; also memberships

    @classmethod
    def of(cls, batch: int, *, group: int, kv_heads: int) -> Capacity:
        """What nearly all batches of so many sequences get by with."""
        items = -(-_PROGRAMS // kv_heads) + batch
        return cls(batch, items, items * _queries(group))

    def within(self, room: Capacity) -> bool:
        """Whether there is room enough for this."""
        return all(need <= have for need, have in zip(self, room, strict=True))

    @property
    def numbers(self) -> int:
        """The numbers of a plan."""
        return sum(self._sizes)

    @property
    def _sizes(self) -> list[int]:
        return [6 * self.items, self.parts, self.batch + 1, self.parts, self.batch]


@dataclass(frozen=True, slots=True)
class SharedPlan:
    """Shared spans cut into work items; int32 tensors on the pool's device."""

    items: torch.Tensor
    """[items, 6]: leading sequence, first key, end, first member, members (0: idle), first part."""
    members: torch.Tensor  # [parts]: sequences
    first_part: torch.Tensor  # [batch + 1]: where the parts of each sequence begin in `parts`
    parts: torch.Tensor  # [parts]: the parts of each sequence
    starts: torch.Tensor  # [batch]: the first key of each that no group covers
    capacity: int  # all parts
    queries: int  # sequences an item, at most

    @classmethod
    def of(cls, numbers: torch.Tensor, capacity: Capacity, *, group: int) -> SharedPlan:
        """What `cut_shared` has found, int32 on the pool's device, for `group` query heads a KV head."""
        items, members, first_part, parts, starts = torch.split(numbers, capacity._sizes)
        return cls(items.view(-1, 6), members, first_part, parts, starts, capacity.parts, _queries(group))


def find_shared_prefixes(slots: Sequence[NDArray[np.integer]], *, min_keys: int = MIN_KEYS) -> SharedPrefixes:
    """Group the sequences by the prefixes of their slot lists that at least `min_keys` keys are added by."""
    tree: PrefixTree[int] = PrefixTree()
    for sequence, own in enumerate(slots):
        tree.add(sequence, own)
    return tree.shared(range(len(slots)), min_keys=min_keys)


def cut_shared(
    prefixes: SharedPrefixes,
    *,
    group: int,
    kv_heads: int,
    min_split: int = 256,
    capacity: Capacity | None = None,
) -> tuple[NDArray[np.int64], Capacity]:
    """Cut the groups into work items: so many queries and keys each that the device is filled.

    Args:
        prefixes: What to cut.
        group: Query heads a KV head.
        kv_heads: KV heads of the pool.
        min_split: The fewest keys that a span is cut into.
        capacity: What the plan is padded to; a ValueError is raised if it is too small.

    Returns:
        The numbers of a `SharedPlan`, and their capacity: the given one, or what the plan needs.
    """
    queries = _queries(group)
    tiles = [
        (span.start, span.end, span.members[at : at + queries])
        for span in prefixes.groups
        for at in range(0, len(span.members), queries)
    ]
    work = sum(end - start for start, end, _ in tiles)
    split = max(-(-work * kv_heads // _PROGRAMS), min_split)
    split = -(-split // 64) * 64
    items: list[tuple[int, ...]] = []  # as in `SharedPlan.items`
    members: list[int] = []
    parts: list[list[int]] = [[] for _ in prefixes.own_starts]
    count = 0
    for start, end, sequences in tiles:
        for low in range(start, end, split):
            items.append((sequences[0], low, min(low + split, end), len(members), len(sequences), count))
            for at, sequence in enumerate(sequences):
                parts[sequence].append(count + at)
            count += len(sequences)
        members.extend(sequences)
    needed = Capacity(len(parts), len(items), count)
    room = capacity or needed
    if not needed.within(room):
        raise ValueError(f"a plan of {needed} exceeds {room}")
    numbers = np.zeros(room.numbers, dtype=np.int64)
    fields = np.split(numbers, np.cumsum(room._sizes)[:-1])
    filled: tuple[Sequence[int], ...] = (
        [field for item in items for field in item],
        members,
        [],
        [part for own in parts for part in own],
        prefixes.own_starts,
    )
    for field, values in zip(fields, filled, strict=True):
        field[: len(values)] = values
    ends = np.cumsum([0, *map(len, parts)])
    fields[2][:] = ends[-1]  # rows behind the batch have no parts
    fields[2][: len(ends)] = ends
    return numbers, room


def plan_shared(
    prefixes: SharedPrefixes, *, group: int, kv_heads: int, device: torch.device, min_split: int = 256
) -> SharedPlan:
    """The plan of `cut_shared` on a device."""
    numbers, capacity = cut_shared(prefixes, group=group, kv_heads=kv_heads, min_split=min_split)
    return SharedPlan.of(torch.from_numpy(numbers).int().to(device), capacity, group=group)


def _queries(group: int) -> int:
    """Sequences whose queries one work item attends: those that fill a tile of a matrix unit."""
    return max(64 // group, 1)
