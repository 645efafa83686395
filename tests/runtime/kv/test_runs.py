from __future__ import annotations

import itertools
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.runtime.kv.runs import RunAllocator, runs


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 12)), max_size=60), st.randoms(use_true_random=False))
def test_slots_have_one_owner_and_neighbours_become_one_run(
    steps: list[tuple[bool, int]], random: Random
) -> None:
    allocator = RunAllocator(40)
    taken: list[int] = []
    for takes, count in steps:
        if takes and count <= allocator.free:
            taken += allocator.allocate(count).tolist()
        elif takes:
            with pytest.raises(MemoryError, match=f"{count} host slots asked for, {allocator.free} of 40"):
                allocator.allocate(count)
        else:
            random.shuffle(taken)
            allocator.release(np.array(taken[:count], dtype=np.int64))
            del taken[:count]
        assert sorted([*taken, *allocator.free_slots().tolist()]) == list(range(40))
        assert allocator.free == 40 - len(taken)
    allocator.release(np.array(taken, dtype=np.int64))
    assert runs(allocator.allocate(40)) == [(0, 40)]


def test_a_run_that_is_long_enough_is_taken_before_pieces() -> None:
    allocator = RunAllocator(10)
    slots = allocator.allocate(10)
    allocator.release(slots[[0, 1, 3, 6, 7, 8]])
    assert allocator.allocate(3).tolist() == [6, 7, 8]
    assert allocator.allocate(3).tolist() == [0, 1, 3]


def test_misuse_is_refused() -> None:
    allocator = RunAllocator(4)
    slots = allocator.allocate(3)
    allocator.release(slots[1:])
    with pytest.raises(ValueError, match="of which some are free"):
        allocator.release(slots[:2])
    with pytest.raises(ValueError, match="at least 1 slot"):
        RunAllocator(0)


@given(st.lists(st.integers(0, 30)))
def test_runs_are_maximal_and_spell_the_slots(slots: list[int]) -> None:
    found = runs(np.array(slots, dtype=np.int64))
    assert [slot for start, count in found for slot in range(start, start + count)] == slots
    assert all(a + count != b for (a, count), (b, _) in itertools.pairwise(found))
