"""A batch's tree of shared prefixes is cut so that each key is read once for each sequence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weft.kernels.shared_prefix import Capacity, SharedPlan, cut_shared, find_shared_prefixes

trees = st.lists(
    st.lists(st.integers(0, 2), max_size=5).map(lambda path: path or [0]), min_size=1, max_size=12
).map(lambda paths: [slots_of(path) for path in paths])


def slots_of(path: list[int]) -> np.ndarray:
    """The slots below a node of a tree: each edge adds three, which belong to the path so far."""
    found = []
    number = 1
    for child in path:
        number = 3 * number + child
        found += [10 * number, 10 * number + 1, 10 * number + 2]
    return np.array(found)


@given(trees, st.integers(1, 7), st.sampled_from([1, 2, 4]), st.integers(0, 3))
def test_every_key_is_read_once_for_each_sequence(
    slots: list[np.ndarray], min_keys: int, group: int, idle: int
) -> None:
    prefixes = find_shared_prefixes(slots, min_keys=min_keys)
    numbers, needed = cut_shared(prefixes, group=group, kv_heads=2)
    room = Capacity(needed.batch + idle, needed.items + idle, needed.parts + idle)
    padded, _ = cut_shared(prefixes, group=group, kv_heads=2, capacity=room)
    assert len(numbers) == needed.numbers
    for values, capacity in ((numbers, needed), (padded, room)):
        plan = SharedPlan.of(torch.from_numpy(values), capacity, group=group)
        items = [item for item in plan.items.tolist() if item[4]]
        assert len(items) == needed.items
        for number, own in enumerate(slots):
            mine = plan.parts[plan.first_part[number] : plan.first_part[number + 1]].tolist()
            read = []
            for leader, low, high, first, count, part in items:
                members = plan.members[first : first + count].tolist()
                if number in members:
                    assert part + members.index(number) in mine
                    assert own[low:high].tolist() == slots[leader][low:high].tolist()
                    read += list(range(low, high))
            assert sorted(read) == list(range(int(plan.starts[number])))
            assert len(mine) == sum(number in plan.members[i[3] : i[3] + i[4]].tolist() for i in items)
        assert (plan.first_part.diff() >= 0).all()


def test_a_plan_that_has_no_room_is_refused() -> None:
    prefixes = find_shared_prefixes([np.arange(9)] * 3, min_keys=4)
    with pytest.raises(ValueError, match="exceeds"):
        cut_shared(prefixes, group=2, kv_heads=2, capacity=Capacity(3, 1, 2))
