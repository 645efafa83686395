"""Drawing tokens from logits, reproducibly.

Each draw uses one uniform number that depends on the request's seed and the position of the token in its
output alone, and every row is treated by itself: so a request draws the same tokens in any batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

__all__ = ["GREEDY", "Draw", "sample", "uniform"]

_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Draw:
    """How one row draws its token; `temperature == 0` takes the most likely one."""

    temperature: float = 0.0
    top_k: int = 0  # 0: the whole vocabulary
    top_p: float = 1.0
    seed: int = 0
    position: int = 0  # of the token in the output


GREEDY = Draw()


def uniform(seed: int, position: int) -> float:
    """A number in (0, 1) with 32 random bits, by two rounds of SplitMix64 (Steele et al., OOPSLA 2014)."""
    mixed = _split_mix(_split_mix(seed & _MASK) + position & _MASK)
    return ((mixed >> 32) + 0.5) / (1 << 32)


def sample(logits: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    """The next token of each row: `logits` [rows, vocab] to int64 [rows] on the same device.

    A token whose logit is -inf is never drawn. Filters apply as elsewhere: temperature, then top-k, then
    top-p.
    """
    greedy = logits.argmax(dim=-1)
    drawn = [row for row, draw in enumerate(draws) if draw.temperature > 0]
    if not drawn:
        return greedy
    rows = torch.tensor(drawn, device=logits.device)
    return greedy.index_copy(0, rows, _draw(logits[rows].double(), [draws[row] for row in drawn]))


def _draw(logits: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    """Invert the cumulative distribution, in vocabulary order, at each row's uniform number."""

    def column(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=logits.dtype, device=logits.device)[:, None]

    logits = logits - logits.amax(dim=-1, keepdim=True)
    weights = torch.softmax(logits / column([draw.temperature for draw in draws]), dim=-1)
    if any(draw.top_k or draw.top_p < 1.0 for draw in draws):
        top_k = column([draw.top_k or logits.shape[-1] for draw in draws])
        weights = _filter(weights, top_k, column([draw.top_p for draw in draws]))
    cumulative = weights.cumsum(dim=-1)
    target = column([uniform(draw.seed, draw.position) for draw in draws]) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(-1)


def _filter(weights: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Keep the `top_k` largest weights, of these the fewest that make up `top_p` of their sum."""
    ordered, order = weights.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(weights.shape[-1], device=weights.device)
    kept = ordered.masked_fill(rank >= top_k, 0.0)
    before = kept.cumsum(dim=-1) - kept
    outside = (before >= top_p * kept.sum(dim=-1, keepdim=True)) & (top_p < 1.0)
    return torch.zeros_like(weights).scatter(-1, order, kept.masked_fill(outside, 0.0))


def _split_mix(state: int) -> int:
    state = state + 0x9E3779B97F4A7C15 & _MASK
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    state = (state ^ state >> 27) * 0x94D049BB133111EB & _MASK
    return state ^ state >> 31
