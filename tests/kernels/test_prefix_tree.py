"""The tree of shared prefixes against its definition, while sequences come and go."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.kernels.prefix_tree import PrefixTree, SharedPrefixes, spread
from weft.kernels.shared_prefix import find_shared_prefixes

SLOTS = st.lists(st.integers(0, 2), max_size=14)
"""A slot's number and its position together make a slot; few numbers, so that much is shared."""


def slots_of(choices: Sequence[int]) -> np.ndarray:
    """As in a cache: a slot stands at one position behind one prefix."""
    found, path = [], 0
    for choice in choices:
        path = path * 3 + choice + 1
        found.append(path)
    return np.array(found, dtype=np.int64)


def check(found: SharedPrefixes, lists: Sequence[np.ndarray], min_keys: int) -> None:
    """Every key is in one span or in its sequence's own part, and no two sequences could share more."""
    covered = [0] * len(lists)
    for group in sorted(found.groups, key=lambda group: group.start):
        assert len(group.members) >= 2
        assert group.end - group.start >= min_keys
        for member in group.members:
            assert covered[member] == group.start
            covered[member] = group.end
            first = lists[group.members[0]]
            assert np.array_equal(lists[member][: group.end], first[: group.end])
    assert list(found.own_starts) == covered
    for left in range(len(lists)):
        for right in range(left):
            same = 0
            while same < min(map(len, (lists[left], lists[right]))) and (
                lists[left][same] == lists[right][same]
            ):
                same += 1
            together = [
                group.end for group in found.groups if left in group.members and right in group.members
            ]
            assert same - max(together, default=0) < min_keys


@given(st.lists(SLOTS, max_size=9), st.integers(1, 4))
def test_every_key_is_covered_once_and_what_is_long_enough_is_shared(
    choices: list[list[int]], min_keys: int
) -> None:
    lists = [slots_of(own) for own in choices]
    check(find_shared_prefixes(lists, min_keys=min_keys), lists, min_keys)


@given(st.lists(st.tuples(SLOTS, st.integers(0, 5), st.integers(1, 3)), max_size=7), st.integers(1, 4))
def test_queries_of_one_sequence_share_all_that_is_computed_of_it(
    sequences: list[tuple[list[int], int, int]], min_keys: int
) -> None:
    shared = [slots_of(choices) for choices, _, _ in sequences]
    counts = [count for _, _, count in sequences]
    computed = [len(choices) + own for choices, own, _ in sequences]
    whole = [
        np.append(slots, 10**8 * (number + 1) + np.arange(end - len(slots)))
        for number, (slots, end) in enumerate(zip(shared, computed, strict=True))
    ]
    found = spread(find_shared_prefixes(shared, min_keys=min_keys), counts, computed, min_keys=min_keys)
    rows = [slots for slots, count in zip(whole, counts, strict=True) for _ in range(count)]
    check(found, rows, min_keys)


@given(st.lists(st.tuples(SLOTS, st.booleans()), max_size=20), st.randoms(use_true_random=False))
def test_a_tree_that_sequences_have_left_is_like_one_that_they_never_entered(
    steps: list[tuple[list[int], bool]], rng: random.Random
) -> None:
    tree: PrefixTree[int] = PrefixTree()
    present: dict[int, np.ndarray] = {}
    for name, (own, leaves) in enumerate(steps):
        present[name] = slots_of(own)
        tree.add(name, present[name])
        if leaves:
            gone = rng.choice(list(present))
            tree.remove(gone)
            del present[gone]
        assert set(tree) == set(present)
        batch = rng.sample(list(present), len(present))
        found = tree.shared(batch, min_keys=1)
        lists = [present[sequence] for sequence in batch]
        check(found, lists, 1)
        assert found == find_shared_prefixes(lists, min_keys=1)


def test_a_sequence_that_is_not_there_cannot_leave() -> None:
    tree: PrefixTree[str] = PrefixTree()
    tree.add("a", np.array([1, 2]))
    with pytest.raises(KeyError):
        tree.remove("b")
