"""Rows for sequences, and which sizes of batches are captured."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from weft.runtime.llm.gpu.graphs import sizes
from weft.runtime.llm.gpu.staging import Staging
from weft.runtime.llm.gpu.table import IDLE, Pages, PageTable
from weft.runtime.llm.sequence import Sequence

CPU = torch.device("cpu")


@given(st.lists(st.sets(st.integers(0, 12), min_size=1), max_size=30))
def test_every_sequence_of_a_step_has_a_row_that_holds_what_it_claims(steps: list[set[int]]) -> None:
    table = PageTable(4)
    pages = Pages(table.height, 8, CPU)
    sequences = [Sequence(np.arange(3), 8) for _ in range(13)]
    for step in steps:
        members = [sequences[number] for number in sorted(step)]
        rows = table.rows(members)
        pages.fit(table.height)
        assert len(set(rows)) == len(rows)
        assert IDLE not in rows
        assert max(rows) < len(pages.slots)
        for number, row in zip(sorted(step), rows, strict=True):
            held = pages.slots[row, : sequences[number].mirrored]
            assert held.tolist() == [number] * len(held)
            pages.write(torch.arange(row * 8, row * 8 + 3), torch.full((3,), number, dtype=torch.int32))
            sequences[number].mirrored = 3


@given(st.integers(1, 700))
def test_a_batch_is_padded_by_an_eighth_at_most(most: int) -> None:
    found = sizes(most)
    assert found == sorted(set(found))
    assert found[-1] == most
    for count in range(1, most + 1):
        size = next(size for size in found if size >= count)
        assert size - count < max(8, size / 8 + 1)


@given(st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5), min_size=1, max_size=6))
def test_what_is_sent_arrives(arrays: list[list[int]]) -> None:
    staging = Staging(CPU)
    sent = [staging.send([np.array(array, dtype=np.int64) for array in arrays]) for _ in range(3)]
    for arrived in sent:
        assert [tensor.tolist() for tensor in arrived] == arrays


def test_new_slots_for_what_was_computed_are_brought_again() -> None:
    sequence = Sequence(np.arange(6), 10)
    sequence.extend(np.arange(10, 16))
    sequence.mirrored = 6
    sequence.share(np.array([10, 11, 12]))
    assert sequence.mirrored == 6
    sequence.share(np.array([10, 11, 90, 91]))
    assert sequence.mirrored == 2
