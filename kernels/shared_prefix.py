"""Which sequences of a decode batch share which keys, so that shared keys are read once for all of them.

Sequences share a prefix where their slot lists begin alike. The prefixes form a tree; each edge of it, a
span of keys with the sequences below, is one group, whose queries attend the span together. The parts are
merged by log-sum-exp (Juravsky et al., "Hydragen", 2024; FlashInfer's cascade; Parrot, OSDI 2024). Pure but
for the final transfer to the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["Group", "SharedPlan", "SharedPrefixes", "find_shared_prefixes", "plan_shared"]

_MIN_KEYS = 128  # a shorter span costs more in merging than its single reading saves


class Group(NamedTuple):
    """A span of keys that several sequences share."""

    members: tuple[int, ...]  # sequences of the batch
    start: int  # the span is the positions start..end-1 of each
    end: int


class SharedPrefixes(NamedTuple):
    """A batch's shared spans; each key of a sequence is in one group of it or in its own part."""

    groups: tuple[Group, ...]
    own_starts: tuple[int, ...]  # of each sequence: the first key that no group covers


@dataclass(frozen=True, slots=True)
class SharedPlan:
    """Shared spans cut into work items; int32 tensors on the pool's device."""

    items: torch.Tensor
    """[items, 6]: leading sequence, first key, end, first member, members (0: idle), first part."""
    members: torch.Tensor  # [members]: sequences
    first_part: torch.Tensor  # [batch + 1]: where the parts of each sequence begin in `parts`
    parts: torch.Tensor  # the parts of each sequence
    starts: torch.Tensor  # [batch]: the first key of each that no group covers
    capacity: int  # all parts
    queries: int  # sequences an item, at most


def find_shared_prefixes(
    slots: Sequence[NDArray[np.integer]], *, min_keys: int = _MIN_KEYS
) -> SharedPrefixes:
    """Group the sequences by the prefixes of their slot lists that at least `min_keys` keys are added by."""
    order = sorted(range(len(slots)), key=lambda sequence: slots[sequence].tobytes())
    common = [_common(slots[left], slots[right]) for left, right in pairwise(order)]
    groups: list[Group] = []
    own_starts = [0] * len(slots)
    pending = [(0, len(order), 0)]  # a run of sequences, and the first key that no group covers for it
    while pending:
        first, end, start = pending.pop()
        if end - first == 1:
            own_starts[order[first]] = start
            continue
        if first == end:
            continue
        shared = min(common[first : end - 1])
        if shared - start >= min_keys:
            groups.append(Group(tuple(sorted(order[first:end])), start, shared))
            start = shared
        cuts = [at + 1 for at in range(first, end - 1) if common[at] == shared]
        pending.extend((left, right, start) for left, right in zip([first, *cuts], [*cuts, end], strict=True))
    return SharedPrefixes(tuple(sorted(groups)), tuple(own_starts))


def plan_shared(
    prefixes: SharedPrefixes,
    *,
    group: int,
    kv_heads: int,
    device: torch.device,
    programs: int = 528,
    min_split: int = 256,
    capacity: tuple[int, int] | None = None,
) -> SharedPlan:
    """Cut the groups into work items: so many queries and keys each that the device is filled.

    Args:
        prefixes: What to cut.
        group: Query heads a KV head.
        kv_heads: KV heads of the pool.
        device: Where the tensors go.
        programs: How many programs, one for each item and KV head, are wanted at least.
        min_split: The fewest keys that a span is cut into.
        capacity: Sizes that `items` and the parts are padded to, for tensors that a CUDA graph reads; a
            ValueError is raised if they are too small.
    """
    queries = max(64 // group, 1)
    tiles = [
        (span.start, span.end, span.members[at : at + queries])
        for span in prefixes.groups
        for at in range(0, len(span.members), queries)
    ]
    work = sum(end - start for start, end, _ in tiles)
    split = max(-(-work * kv_heads // programs), min_split)
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
    room = capacity or (len(items), count)
    if len(items) > room[0] or count > room[1]:
        raise ValueError(f"{len(items)} work items with {count} parts exceed the capacity {room}")

    def tensor(values: Sequence[int], size: int) -> torch.Tensor:
        return torch.tensor([*values, *[0] * (size - len(values))], dtype=torch.int32).to(device)

    return SharedPlan(
        items=tensor([field for item in items for field in item], 6 * room[0]).view(-1, 6),
        members=tensor(members, room[1]),
        first_part=tensor(np.cumsum([0, *map(len, parts)]).tolist(), len(parts) + 1),
        parts=tensor([part for own in parts for part in own], room[1]),
        starts=tensor(prefixes.own_starts, len(parts)),
        capacity=room[1],
        queries=queries,
    )


def _common(left: NDArray[np.integer], right: NDArray[np.integer]) -> int:
    """The number of leading slots that both have."""
    length = min(len(left), len(right))
    differing = np.flatnonzero(left[:length] != right[:length])
    return int(differing[0]) if differing.size else length
