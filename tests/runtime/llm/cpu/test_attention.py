"""The CPU's attention against the reference of the kernels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.kernels.attention import PagedBatch, paged_attention, plan_attention
from weft.runtime.llm.cpu.attention import Heads, plan

Sequences = list[tuple[int, list[int]]]
"""Keys, and the positions of the queries."""


def check(sequences: Sequences, heads: Heads, window: int | None, *, scattered: bool) -> None:
    """The same results, in poisoned memory, whether slots are consecutive or not."""
    total = sum(keys for keys, _ in sequences)
    slots = np.random.default_rng(0).permutation(total + 5)[:total] if scattered else np.arange(3, total + 3)
    batch = PagedBatch(
        slots=slots,
        key_counts=tuple(keys for keys, _ in sequences),
        positions=np.concatenate([np.array(queries, dtype=np.int64) for _, queries in sequences]),
        query_counts=tuple(len(queries) for _, queries in sequences),
    )
    generator = torch.Generator().manual_seed(1)
    q, k, v = (
        torch.randn(rows, count, heads.dim, generator=generator)
        for rows, count in (
            (sum(batch.query_counts), heads.kv_heads * heads.group),
            (total + 5, heads.kv_heads),
            (total + 5, heads.kv_heads),
        )
    )
    reference = plan_attention(
        batch, group=heads.group, window=window, dtype=torch.float32, device=torch.device("cpu")
    )
    expected = paged_attention(q, k, v, reference, scale=1.0)
    out = torch.full_like(q, torch.nan)
    with torch.inference_mode():
        for tile in plan(batch, heads, window):
            tile.attend(q, k, v, out)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scattered", [False, True])
@pytest.mark.parametrize("window", [None, 3])
def test_a_mixed_batch(window: int | None, scattered: bool) -> None:
    singles: Sequences = [(keys, [keys - 1]) for keys in (4, 11, 1, 30, 7)]
    runs: Sequences = [(6, list(range(6))), (9, [6, 7, 8]), (10, [7, 2, 2, 9]), (5, [3])]
    check([*singles[:2], *runs, *singles[2:]], Heads(2, 2, 8), window, scattered=scattered)


@pytest.mark.parametrize("heads", [Heads(4, 1, 8), Heads(1, 4, 8), Heads(2, 3, 16)])
def test_multi_head_multi_query_and_grouped(heads: Heads) -> None:
    check([(5, [4]), (7, [4, 5, 6]), *[(9, [8])] * 4], heads, None, scattered=True)


@pytest.mark.parametrize("window", [None, 20, 700])
def test_long_runs_and_contexts_of_several_lengths(window: int | None) -> None:
    lengths = [700, 300, 20, 290, 513, 600]
    singles: Sequences = [(length, [length - 1]) for length in lengths]
    check([*singles, (600, list(range(90, 600)))], Heads(1, 2, 8), window, scattered=False)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_batch(data: st.DataObject) -> None:
    sequences: Sequences = []
    for keys in data.draw(st.lists(st.integers(1, 24), min_size=1, max_size=8)):
        sequences.append((keys, data.draw(st.lists(st.integers(0, keys - 1), min_size=1, max_size=4))))
    heads = Heads(data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)), 4)
    window = data.draw(st.none() | st.integers(1, 30))
    check(sequences, heads, window, scattered=data.draw(st.booleans()))
