"""Norms, rotation, storage, activation and masks against their formulas, on torch and on Triton."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from weft.kernels.activation import silu_mul
from weft.kernels.dispatch import Side
from weft.kernels.heads import store_heads
from weft.kernels.mask import apply_token_mask
from weft.kernels.norm import add_rms_norm, rms_norm
from weft.kernels.rope import apply_rotary
from weft.kernels.tables import Rotary

pytestmark = pytest.mark.usefixtures("poisoned")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = {torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}
every_dtype = pytest.mark.parametrize("dtype", list(DTYPES))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(DEVICE)


def check(out: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), expected, atol=DTYPES[dtype], rtol=DTYPES[dtype])


def formula_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


def formula_rotation(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    turns = torch.polar(torch.ones_like(angles), angles)[:, None]
    turned = torch.complex(*x.chunk(2, -1)) * turns
    return torch.cat([turned.real, turned.imag], -1)


@every_dtype
@pytest.mark.parametrize("dim", [16, 100, 4096])
def test_rms_norm(dim: int, dtype: torch.dtype, side: Side) -> None:
    x, weight = random(5, dim).to(dtype), random(dim, seed=1).to(dtype)
    check(rms_norm.on(side)(x, weight, 1e-5), formula_norm(x.double(), weight.double(), 1e-5), dtype)


def test_rms_norm_of_heads_scales_each_by_its_own_weight(side: Side) -> None:
    x, weight = random(5, 3, 8).float(), random(3, 8, seed=1).float()
    out = rms_norm.on(side)(x, weight, 1e-6)
    check(out, formula_norm(x.double(), weight.double(), 1e-6), torch.float32)


@every_dtype
def test_add_rms_norm_returns_the_sum_too(dtype: torch.dtype, side: Side) -> None:
    x, residual, weight = (random(4, 24, seed=seed).to(dtype) for seed in range(3))
    normed, total = add_rms_norm.on(side)(x, residual, weight, 1e-6)
    check(total, x.double() + residual.double(), dtype)
    check(normed, formula_norm(total.double(), weight.double(), 1e-6), dtype)


@every_dtype
def test_rotary_turns_pairs_by_their_angle(dtype: torch.dtype) -> None:
    x = random(3, 2, 8).to(dtype)
    angles = random(3, 4, seed=1)
    cos = torch.cat([angles.cos(), angles.cos()], -1).float()[:, None]
    sin = torch.cat([-angles.sin(), angles.sin()], -1).float()[:, None]
    check(apply_rotary(x, cos, sin), formula_rotation(x.double(), angles), dtype)


@every_dtype
def test_silu_mul(dtype: torch.dtype, side: Side) -> None:
    gate_up = random(3, 2 * 1100).to(dtype)
    gate, up = gate_up.double().chunk(2, -1)
    check(silu_mul.on(side)(gate_up), gate * gate.sigmoid() * up, dtype)


@every_dtype
@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(4, 2, 32), (7, 1, 96), (32, 8, 128)])
def test_store_heads(
    heads: int, kv_heads: int, head_dim: int, normed: bool, rotated: bool, dtype: torch.dtype, side: Side
) -> None:
    tokens, slots = 5, torch.tensor([7, 2, 0, 9, 4], device=DEVICE)
    qkv = random(tokens, heads + 2 * kv_heads, head_dim).to(dtype)
    weight = random(heads + kv_heads, head_dim, seed=1).to(dtype)
    positions = torch.tensor([0, 1, 30, 5, 17], device=DEVICE)
    angles = torch.arange(31, device=DEVICE)[:, None] * 0.7 ** torch.arange(head_dim // 2, device=DEVICE)
    k_pool, v_pool = (torch.full((11, kv_heads, head_dim), torch.nan).to(DEVICE, dtype) for _ in "kv")
    q = store_heads.on(side)(
        qkv,
        k_pool,
        v_pool,
        slots,
        qk_norm=weight if normed else None,
        eps=1e-6,
        rotary=Rotary(angles.cos().float(), angles.sin().float()) if rotated else None,
        positions=positions if rotated else None,
    )
    qk, v = qkv.double().tensor_split([heads + kv_heads], 1)
    if normed:
        qk = formula_norm(qk, weight.double(), 1e-6)
    if rotated:
        qk = formula_rotation(qk, angles[positions].double())
    tolerance = 3 * DTYPES[dtype]
    torch.testing.assert_close(q.double(), qk[:, :heads], atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(k_pool[slots].double(), qk[:, heads:], atol=tolerance, rtol=tolerance)
    assert torch.equal(v_pool[slots].double(), v)
    others = [slot for slot in range(11) if slot not in slots.tolist()]
    assert k_pool[others].isnan().all()
    assert v_pool[others].isnan().all()


@pytest.mark.parametrize("vocab", [32, 70, 5000])
def test_a_token_mask_forbids_what_its_bits_leave_out(vocab: int, side: Side) -> None:
    logits = random(3, vocab).float()
    allowed = random(3, vocab, seed=1) > 0
    allowed[1] = True
    bits = torch.nn.functional.pad(allowed, (0, -vocab % 32), value=True).view(3, -1, 32)
    words = (bits.long() << torch.arange(32, device=DEVICE)).sum(-1)
    mask = torch.where(words >= 2**31, words - 2**32, words).int()
    expected = logits.masked_fill(~allowed, -torch.inf)
    apply_token_mask.on(side)(logits, mask)
    assert torch.equal(logits, expected)


def test_the_kernels_can_be_used_on_cpu_without_triton() -> None:
    code = """
import sys
sys.modules["triton"] = None  # importing it is an error
import torch
from weft.kernels import decode, extend, heads, mask, sampling, shared_prefix
from weft.kernels.norm import rms_norm
rms_norm(torch.ones(2, 4), torch.ones(4), 0.0)
"""
    subprocess.run([sys.executable, "-P", "-c", code], check=True)
