"""Rotation tables of the rotary embedding, built in float64."""

from __future__ import annotations

import math

import torch

from .config import RopeConfig

__all__ = ["inverse_frequencies", "rotation_tables", "rotations"]


def rotation_tables(
    rope: RopeConfig, *, head_dim: int, positions: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines for positions 0..positions-1 as float32 [positions, 1, head_dim].

    The angles of the first half of a head are repeated in the second; the first half of the sines is
    negated, as `weft.kernels.rope.apply_rotary` wants them.
    """
    table = rotations(rope, head_dim=head_dim, positions=positions)
    cos, sin = table.real, table.imag
    tables = torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)
    return tables[0].float()[:, None].to(device), tables[1].float()[:, None].to(device)


def rotations(rope: RopeConfig, *, head_dim: int, positions: int) -> torch.Tensor:
    """The rotation of each pair at positions 0..positions-1: complex128 [positions, head_dim / 2]."""
    angles = torch.outer(torch.arange(positions, dtype=torch.float64), inverse_frequencies(rope, head_dim))
    return torch.polar(torch.full_like(angles, attention_scale(rope)), angles)


def inverse_frequencies(rope: RopeConfig, head_dim: int) -> torch.Tensor:
    """The angle by which each pair of dimensions turns per position: float64 [head_dim / 2]."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
    plain = rope.theta**-exponents
    match rope.kind:
        case "linear":
            return plain / rope.factor
        case "llama3":
            return _llama3(rope, plain)
        case "yarn":
            return _yarn(rope, plain, head_dim)
        case _:
            return plain


def attention_scale(rope: RopeConfig) -> float:
    """The factor on cosines and sines: YaRN's attention temperature (Peng et al., 2023, section 3.4)."""
    if rope.kind != "yarn":
        return 1.0
    if rope.attention_factor is not None:
        return rope.attention_factor
    return 1.0 if rope.factor <= 1 else 0.1 * math.log(rope.factor) + 1.0


def _llama3(rope: RopeConfig, plain: torch.Tensor) -> torch.Tensor:
    """Llama 3.1's scaling: low frequencies divided, high ones kept, a linear blend between."""
    turns = rope.original_context * plain / (2 * math.pi)  # within the original context
    blend = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    blend = blend.clamp(0.0, 1.0)
    return blend * plain + (1 - blend) * plain / rope.factor


def _yarn(rope: RopeConfig, plain: torch.Tensor, head_dim: int) -> torch.Tensor:
    """YaRN's NTK-by-parts interpolation (Peng et al., 2023, section 3.2)."""

    def dimension(turns: float) -> float:
        """The pair that makes `turns` turns within the original context."""
        base = rope.original_context / (turns * 2 * math.pi)
        return head_dim * math.log(base) / (2 * math.log(rope.theta))

    low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    pairs = torch.arange(head_dim // 2, dtype=torch.float64)
    interpolated = ((pairs - low) / max(high - low, 0.001)).clamp(0.0, 1.0)
    return interpolated * plain / rope.factor + (1 - interpolated) * plain
