"""Windows are read off mask functions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weft.runtime.llm.hosted.interface import LayerShape
from weft.runtime.llm.hosted.model import pool_shape
from weft.runtime.llm.hosted.probe import MaskFunction, RefusedError, window_of

CPU = torch.device("cpu")


def sliding(window: int | None) -> MaskFunction:
    return lambda b, h, q, k: (k <= q) if window is None else (k <= q) & (k > q - window)


def chunked(size: int) -> MaskFunction:
    return lambda b, h, q, k: (k <= q) & (k // size == q // size)


@given(context=st.integers(1, 300), window=st.none() | st.integers(1, 400))
def test_a_window_is_found(context: int, window: int | None) -> None:
    found = window_of(sliding(window), context, CPU)
    assert found == (None if window is None or window >= context else window)


@given(context=st.integers(1, 300), size=st.integers(2, 400))
def test_chunks_are_none(context: int, size: int) -> None:
    if size >= context:
        assert window_of(chunked(size), context, CPU) is None
    else:
        with pytest.raises(RefusedError, match="no sliding window"):
            window_of(chunked(size), context, CPU)


@pytest.mark.parametrize(
    "function",
    [
        lambda b, h, q, k: (k <= q) | (k < 4),  # a prefix that is seen both ways
        lambda b, h, q, k: k == k,  # an encoder's
        lambda b, h, q, k: (k <= q) & ((k > q - 8) | (k < 2)),  # a window, and the first tokens
        lambda b, h, q, k: (k <= q) & ((q - k) % 2 == 0),  # dilated
    ],
)
def test_other_patterns_are_refused(function: MaskFunction) -> None:
    with pytest.raises(RefusedError, match="no sliding window"):
        window_of(function, 100, CPU)


def test_a_pool_fits_the_widest_layer() -> None:
    narrow, wide = (
        LayerShape(index, 4, kv_heads, dim, dim, 1.0, None, None)
        for index, (kv_heads, dim) in enumerate([(2, 16), (1, 64)])
    )
    assert pool_shape((narrow, narrow)) == (2, 16)
    assert pool_shape((narrow, wide)) == (1, 64)
