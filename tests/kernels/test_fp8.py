"""Products in 8 bits against those of what their operands stand for, on torch and on Triton."""

from __future__ import annotations

import pytest
import torch

from weft.kernels.dispatch import Side
from weft.kernels.fp8 import FP8, Fp8Matrix, fp8_linear, quantize_rows, scale_product

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HALF_STEP = 2**-4  # of a number with three bits behind its first
SMALLEST = 2**-10  # half of the smallest number, where the largest is 448

every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


@every_dtype
@pytest.mark.parametrize("dim", [16, 100, 4096])
def test_rows_come_back_as_near_as_eight_bits_allow(dim: int, dtype: torch.dtype, side: Side) -> None:
    x = (random(5, dim) * torch.tensor([1e-6, 1e-2, 1.0, 50.0, 1e6], device=DEVICE)[:, None]).to(dtype)
    values, factors = quantize_rows.on(side)(x)
    assert (values.dtype, factors.dtype, factors.shape) == (FP8, torch.float32, (5, 1))
    torch.testing.assert_close(factors * 448, x.float().abs().amax(-1, keepdim=True))
    if side == "triton" and DEVICE == "cpu":
        pytest.skip("Triton's interpreter loses the carry when it rounds 7.9 up to 8 in this format")
    assert (values.float().abs().amax(-1) == 448).all()
    bound = x.float().abs() * HALF_STEP * 1.001 + SMALLEST * factors
    assert ((values.float() * factors - x.float()).abs() <= bound).all()


def test_rows_of_zeros_stay_zeros(side: Side) -> None:
    values, factors = quantize_rows.on(side)(torch.zeros(2, 16, device=DEVICE))
    assert not values.float().any()
    assert factors.isfinite().all()


@every_dtype
@pytest.mark.parametrize("width", [16, 1100])
@pytest.mark.parametrize("biased", [False, True])
def test_a_product_gets_its_factors(width: int, biased: bool, dtype: torch.dtype, side: Side) -> None:
    product, rows, columns = random(3, width), random(3, 1, seed=1), random(width, 1, seed=2)
    bias = random(width, seed=3).to(dtype) if biased else None
    expected = product.double() * rows.double() * columns.double().t()
    if bias is not None:
        expected += bias.double()
    out = scale_product.on(side)(product, rows, columns, bias, dtype)
    assert out.dtype == dtype
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(out.double(), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("tokens", [1, 7, 300])
@pytest.mark.parametrize("biased", [False, True])
def test_linear_is_the_product_of_what_the_operands_stand_for(tokens: int, biased: bool) -> None:
    x, weight = random(tokens, 128).bfloat16(), random(48, 128, seed=1).bfloat16()
    bias = random(48, seed=2).bfloat16() if biased else None
    matrix = Fp8Matrix.of(weight)
    values, factors = quantize_rows(x)
    rows = (values.double() * factors) @ (matrix.values.double() * matrix.factors).t()
    expected = rows if bias is None else rows + bias.double()
    out = fp8_linear(x, matrix, bias)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), expected, atol=0.1, rtol=1e-2)
    full = x.double() @ weight.double().t() + (0 if bias is None else bias.double())
    assert (out.double() - full).norm() < 0.08 * full.norm()


def test_a_token_is_computed_alike_beside_any_others() -> None:
    x, matrix = random(9, 64), Fp8Matrix.of(random(32, 64, seed=1))
    together = fp8_linear(x, matrix)
    apart = torch.cat([fp8_linear(row[None], matrix) for row in x])
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-5)
