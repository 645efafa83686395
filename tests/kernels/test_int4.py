"""Products with matrices in 4 bits against those of what they stand for, on torch and on Triton."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.kernels.dispatch import Side
from weft.kernels.int4 import Int4Matrix, int4_linear, multiply, unpacked

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def drawn(
    out: int, columns: int, group: int, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Numbers, scales and zeros of a matrix."""
    generator = torch.Generator().manual_seed(seed)
    groups = columns // group
    numbers = torch.randint(16, (out, columns), generator=generator, dtype=torch.uint8)
    zeros = torch.randint(16, (out, groups), generator=generator, dtype=torch.uint8)
    scales = torch.rand(out, groups, generator=generator).half() / 8 + 0.01
    return numbers.to(DEVICE), scales.to(DEVICE), zeros.to(DEVICE)


def meant(numbers: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor) -> torch.Tensor:
    """What they stand for, float64, element by element."""
    group = numbers.shape[1] // scales.shape[1]
    at = torch.arange(numbers.shape[1], device=numbers.device) // group
    return (numbers.double() - zeros.double()[:, at]) * scales.double()[:, at]


@pytest.mark.parametrize(
    ("columns", "group"), [(256, 128), (192, 64), (96, 32), (160, 160), (384, 384), (96, 96)]
)
def test_what_is_packed_is_kept(columns: int, group: int) -> None:
    parts = drawn(10, columns, group)
    matrix = Int4Matrix.pack(*parts)
    assert matrix.shape == (10, columns)
    assert matrix.values.numel() == 10 * columns // 2
    assert torch.equal(unpacked(matrix.values, matrix.factors).double(), meant(*parts))
    both = Int4Matrix.cat([matrix, matrix])
    assert torch.equal(unpacked(both.values, both.factors).double(), meant(*parts).repeat(2, 1))


@every_dtype
@pytest.mark.parametrize("rows", [1, 5, 17, 33, 70])
@pytest.mark.parametrize(
    ("out", "columns", "group"), [(40, 512, 128), (72, 64, 64), (130, 96, 32), (64, 256, 256)]
)
def test_a_product_is_that_of_what_the_matrix_stands_for(
    rows: int, out: int, columns: int, group: int, dtype: torch.dtype, side: Side, poisoned: None
) -> None:
    parts = drawn(out, columns, group)
    matrix, x = Int4Matrix.pack(*parts), random(rows, columns, seed=1).to(dtype)
    bias = random(out, seed=2).to(dtype)
    expected = x.double() @ meant(*parts).t()
    for added in (None, bias):
        if added is not None:
            expected = expected + added.double()
        found = multiply.on(side)(x, matrix.values, matrix.factors, added)
        assert (found.dtype, found.shape) == (dtype, (rows, out))
        error = (found.double() - expected).norm() / expected.norm()
        assert error < {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 5e-3}[dtype]


def test_no_rows_have_no_product(side: Side) -> None:
    matrix = Int4Matrix.pack(*drawn(40, 64, 64))
    assert multiply.on(side)(random(0, 64), matrix.values, matrix.factors, None).shape == (0, 40)


@settings(max_examples=25, deadline=None)
@given(
    out=st.integers(1, 9),
    groups=st.integers(1, 3),
    group=st.sampled_from([32, 64, 96, 128]),
    size=st.floats(1e-4, 1e4),
    shift=st.floats(-2, 2),
    seed=st.integers(0, 99),
)
def test_rounding_stays_within_half_a_step(
    out: int, groups: int, group: int, size: float, shift: float, seed: int
) -> None:
    columns = groups * group
    weight = (random(out, columns, seed=seed) + shift) * size
    matrix = Int4Matrix.of(weight)
    found = unpacked(matrix.values, matrix.factors)
    each = columns // len(matrix.factors)
    assert each in (32, 64, 128)
    tiles = weight.view(out, -1, each)
    step = (tiles.amax(-1).clamp_min(0) - tiles.amin(-1).clamp_max(0)) / 15
    error = (found - weight).abs().view(out, -1, each).amax(-1)
    assert (error <= step * 1.01).all(), "that of the zero and that of the number"
    assert torch.equal(unpacked(*pair(Int4Matrix.of(torch.zeros(3, 32)))), torch.zeros(3, 32))


def pair(matrix: Int4Matrix) -> tuple[torch.Tensor, torch.Tensor]:
    return matrix.values, matrix.factors


def test_columns_may_come_in_another_order() -> None:
    numbers, scales, zeros = drawn(16, 128, 32)
    order = torch.randperm(128, generator=torch.Generator().manual_seed(3)).to(DEVICE)
    x = random(5, 128)
    matrix = Int4Matrix.pack(numbers, scales, zeros, order)
    expected = x.double()[:, order] @ meant(numbers, scales, zeros).t()
    torch.testing.assert_close(int4_linear(x, matrix).double(), expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(("columns", "groups"), [(96, 2), (48, 1), (64, 0), (100, 3)])
def test_groups_that_do_not_fit_are_refused(columns: int, groups: int) -> None:
    numbers = torch.zeros(4, columns, dtype=torch.uint8)
    scales, zeros = torch.ones(4, groups), torch.zeros(4, groups, dtype=torch.uint8)
    with pytest.raises(ValueError, match="not of a multiple of 32"):
        Int4Matrix.pack(numbers, scales, zeros)
    if groups == 1:
        with pytest.raises(ValueError, match="not of a multiple of 32"):
            Int4Matrix.of(torch.zeros(4, columns))
