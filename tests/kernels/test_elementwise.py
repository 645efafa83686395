"""Norms, rotation and activation against their formulas."""

from __future__ import annotations

import pytest
import torch

from weft.kernels.activation import silu_mul
from weft.kernels.norm import add_rms_norm, rms_norm
from weft.kernels.rope import apply_rotary

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
DTYPES = {torch.float32: 1e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def formula_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", list(DTYPES))
def test_rms_norm(dtype: torch.dtype, device: str) -> None:
    x, weight = random(5, 16).to(dtype).to(device), random(16, seed=1).to(dtype).to(device)
    out = rms_norm(x, weight, 1e-5)
    assert out.dtype == dtype
    expected = formula_norm(x.double(), weight.double(), 1e-5)
    torch.testing.assert_close(out.double(), expected, atol=DTYPES[dtype], rtol=DTYPES[dtype])


def test_rms_norm_of_heads_scales_each_by_its_own_weight() -> None:
    x, weight = random(5, 3, 8).float(), random(3, 8, seed=1).float()
    out = rms_norm(x, weight, 1e-6)
    for head in range(3):
        torch.testing.assert_close(out[:, head], rms_norm(x[:, head], weight[head], 1e-6))


def test_add_rms_norm_returns_the_sum_too() -> None:
    x, residual, weight = random(4, 8).float(), random(4, 8, seed=1).float(), random(8, seed=2).float()
    normed, total = add_rms_norm(x, residual, weight, 1e-6)
    torch.testing.assert_close(total, x + residual)
    torch.testing.assert_close(normed, rms_norm(x + residual, weight, 1e-6))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", list(DTYPES))
def test_rotary_turns_pairs_by_their_angle(dtype: torch.dtype, device: str) -> None:
    x = random(3, 2, 8).to(dtype).to(device)
    angles = random(3, 1, 4, seed=1).to(device)
    cos = torch.cat([angles.cos(), angles.cos()], -1).float()
    sin = torch.cat([-angles.sin(), angles.sin()], -1).float()
    out = apply_rotary(x, cos, sin)
    assert out.dtype == dtype
    as_complex = torch.complex(x[..., :4].double(), x[..., 4:].double()) * torch.polar(
        torch.ones_like(angles), angles
    )
    expected = torch.cat([as_complex.real, as_complex.imag], -1)
    torch.testing.assert_close(out.double(), expected, atol=DTYPES[dtype], rtol=DTYPES[dtype])


@pytest.mark.parametrize("device", DEVICES)
def test_silu_mul(device: str) -> None:
    gate, up = random(3, 6).to(device), random(3, 6, seed=1).to(device)
    torch.testing.assert_close(silu_mul(torch.cat([gate, up], -1)), gate * gate.sigmoid() * up)
