"""Paged attention against the definition, key by key."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.kernels.attention import PagedBatch, paged_attention, plan_attention, store_kv

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


@dataclass(frozen=True)
class Case:
    """Sequences as (keys, positions of the queries), and the heads."""

    sequences: list[tuple[int, list[int]]]
    kv_heads: int = 2
    group: int = 2
    window: int | None = None
    head_dim: int = 8
    softcap: float | None = None


def check(case: Case, dtype: torch.dtype = torch.float32, device: str = "cpu") -> None:
    rng = np.random.default_rng(0)
    total = sum(keys for keys, _ in case.sequences)
    slots = rng.permutation(total + 5)[:total]
    batch = PagedBatch(
        slots=slots,
        key_counts=tuple(keys for keys, _ in case.sequences),
        positions=np.concatenate([np.array(queries, dtype=np.int64) for _, queries in case.sequences]),
        query_counts=tuple(len(queries) for _, queries in case.sequences),
    )
    tokens = sum(batch.query_counts)
    generator = torch.Generator().manual_seed(1)
    q, k, v = (
        torch.randn(rows, heads, case.head_dim, generator=generator).to(device=device, dtype=dtype)
        for rows, heads in (
            (tokens, case.kv_heads * case.group),
            (total + 5, case.kv_heads),
            (total + 5, case.kv_heads),
        )
    )
    plan = plan_attention(
        batch, group=case.group, window=case.window, dtype=dtype, device=torch.device(device)
    )
    scale = 1 / math.sqrt(case.head_dim)
    out = paged_attention(q, k, v, plan, scale=scale, softcap=case.softcap)
    assert out.dtype == dtype
    expected = by_definition(q.cpu().double(), k.cpu().double(), v.cpu().double(), batch, case, scale)
    torch.testing.assert_close(out.cpu().double(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def by_definition(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, batch: PagedBatch, case: Case, scale: float
) -> torch.Tensor:
    out = torch.empty_like(q)
    first = first_key = 0
    for keys, queries in zip(batch.key_counts, batch.query_counts, strict=True):
        slots = batch.slots[first_key : first_key + keys]
        for row in range(first, first + queries):
            position = int(batch.positions[row])
            low = 0 if case.window is None else max(position - case.window + 1, 0)
            visible = torch.from_numpy(slots[low : position + 1])
            for head in range(q.shape[1]):
                kv_head = head // case.group
                scores = k[visible, kv_head] @ q[row, head] * scale
                if case.softcap is not None:
                    scores = case.softcap * (scores / case.softcap).tanh()
                out[row, head] = scores.softmax(0) @ v[visible, kv_head]
        first += queries
        first_key += keys
    return out


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("softcap", [None, 0.7])
def test_a_mixed_batch(softcap: float | None, window: int | None, dtype: torch.dtype, device: str) -> None:
    prefill, chunk, decodes = (6, list(range(6))), (9, [6, 7, 8]), [(4, [3]), (11, [10]), (1, [0])]
    batch = [decodes[0], prefill, decodes[1], chunk, decodes[2]]
    check(Case(batch, window=window, softcap=softcap), dtype, device)


@pytest.mark.parametrize(("kv_heads", "group"), [(4, 1), (1, 4), (2, 3)])
def test_multi_head_multi_query_and_grouped(kv_heads: int, group: int) -> None:
    check(Case([(5, [4]), (7, [4, 5, 6])], kv_heads=kv_heads, group=group))


def test_queries_may_sit_anywhere() -> None:
    check(Case([(10, [7, 2, 2, 9]), (8, [0]), (8, [3])]))


@pytest.mark.parametrize("window", [None, 20, 700])
def test_long_runs_and_contexts_of_several_buckets(window: int | None) -> None:
    check(Case([(700, [699]), (300, [299]), (600, list(range(90, 600))), (20, [19])], 1, 2, window))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_batch(data: st.DataObject) -> None:
    sequences = []
    for keys in data.draw(st.lists(st.integers(1, 24), min_size=1, max_size=6)):
        queries = data.draw(st.lists(st.integers(0, keys - 1), min_size=1, max_size=5))
        sequences.append((keys, queries))
    window = data.draw(st.none() | st.integers(1, 30))
    check(Case(sequences, data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)), window, head_dim=4))


@pytest.mark.parametrize("device", DEVICES)
def test_store_kv_writes_the_slots_only(device: str) -> None:
    pools = torch.zeros(2, 6, 2, 4, device=device)
    k, v = torch.ones(2, 2, 4, device=device), torch.full((2, 2, 4), 2.0, device=device)
    store_kv(k, v, pools[0], pools[1], torch.tensor([4, 1], device=device))
    assert pools[0, :, 0, 0].tolist() == [0, 1, 0, 0, 1, 0]
    assert pools[1, :, 1, 3].tolist() == [0, 2, 0, 0, 2, 0]
