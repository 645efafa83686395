"""Products with fixed weights: both routines, and the choice between them."""

from __future__ import annotations

import pytest
import torch

from weft.runtime.llm.cpu import linear
from weft.runtime.llm.cpu.linear import ROWS, Linear, mode_of, tune


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 17])
def test_products_are_those_of_the_definition(rows: int, packed: bool, biased: bool) -> None:
    weight, bias, x, total = (
        random(24, 40),
        random(24) if biased else None,
        random(rows, 40),
        random(rows, 24),
    )
    product = x.double() @ weight.double().t() + (0 if bias is None else bias.double())
    matrix = Linear(weight, bias)
    matrix.choose([packed] * len(ROWS))
    out = torch.empty(rows, 24)
    torch.testing.assert_close(matrix(x, 0, out).double(), product, atol=1e-5, rtol=1e-5)
    expected = total.double() + product
    matrix.add_to(total, x, 0)
    torch.testing.assert_close(total.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("rows", "size"), [(1, 0), (3, 0), (4, 1), (15, 1), (16, 2), (63, 2), (64, 3), (900, 3)]
)
def test_rows_go_by_the_size_below(rows: int, size: int) -> None:
    assert mode_of(rows) == size
    assert mode_of(rows, 1) == len(ROWS) + size


def set_times(monkeypatch: pytest.MonkeyPatch, times: dict[tuple[int, int], tuple[float, float]]) -> None:
    """Let plain and packed take these times, by threads and rows; 1 and 2 where nothing is said."""
    found = {((8, 8), count, rows): times.get((count, rows), (1.0, 2.0)) for count in (1, 2) for rows in ROWS}
    monkeypatch.setattr(linear, "_measured", found)


def test_each_mode_takes_the_faster_routine(monkeypatch: pytest.MonkeyPatch) -> None:
    set_times(monkeypatch, {(1, 64): (2.0, 1.0), (2, 16): (3.0, 1.0)})
    matrix = Linear(random(8, 8))
    calls: list[str] = []
    monkeypatch.setattr(matrix, "multiply_packed", lambda x: calls.append("packed"))
    monkeypatch.setattr(matrix, "multiply_plain", lambda x, out: calls.append("plain"))
    tune([matrix], (1, 2))
    for index in (0, 1):
        for rows in ROWS:
            matrix(random(rows, 8), mode_of(rows, index))
    assert calls == [*["plain"] * 3, "packed", *["plain"] * 2, "packed", "plain"]


@pytest.mark.parametrize(("packed_time", "left"), [(0.9, "_packed"), (1.1, "_plain")])
def test_large_models_keep_one_layout(monkeypatch: pytest.MonkeyPatch, packed_time: float, left: str) -> None:
    set_times(monkeypatch, {(1, rows): (1.0, packed_time) for rows in ROWS} | {(1, 4): (1.0, 1.0)})
    monkeypatch.setattr(linear, "_BOTH_LAYOUTS", 100)
    matrix = Linear(random(8, 8))
    tune([matrix], (1,))
    assert [name for name in ("_plain", "_packed") if getattr(matrix, name) is not None] == [left]
    x = random(4, 8)
    torch.testing.assert_close(matrix(x, 1), x @ random(8, 8).t())


def test_timing_leaves_the_threads_and_the_products_alone() -> None:
    matrices = [Linear(random(8, 12)), Linear(random(8, 12)), Linear(random(4, 8))]
    before = torch.get_num_threads()
    tune(matrices, (1, 2))
    assert torch.get_num_threads() == before
    x = random(5, 12)
    torch.testing.assert_close(matrices[1](x, mode_of(5, 1)), x @ random(8, 12).t())
