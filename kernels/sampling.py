"""Drawing tokens from logits, reproducibly.

Each draw uses one uniform number that depends on the request's seed and the position of the token in its
output alone, and every row is treated by itself: so a request draws the same tokens in any batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .dispatch import kernel

__all__ = ["GREEDY", "Draw", "Draws", "draw", "sample", "uniform"]


@dataclass(frozen=True, slots=True)
class Draw:
    """How one row draws its token; `temperature == 0` takes the most likely one."""

    temperature: float = 0.0
    top_k: int = 0  # 0: the whole vocabulary
    top_p: float = 1.0
    seed: int = 0
    position: int = 0  # of the token in the output


GREEDY = Draw()


@dataclass(frozen=True, slots=True)
class Draws:
    """How each row of a batch draws its token, as `Draw`; tensors [rows] on the logits' device."""

    temperature: torch.Tensor  # float64
    top_k: torch.Tensor  # int64
    top_p: torch.Tensor  # float64
    seed: torch.Tensor  # int64: the bits of the seed
    position: torch.Tensor  # int64

    @staticmethod
    def of(draws: Sequence[Draw], device: torch.device) -> Draws:
        """Bring `draws` to the device, in one transfer."""
        floats = torch.tensor([[d.temperature, d.top_p] for d in draws], dtype=torch.float64)
        ints = torch.tensor([[d.top_k, _signed(d.seed), d.position] for d in draws], dtype=torch.int64)
        sent = torch.cat([floats.view(torch.int64), ints], dim=1).T.contiguous().to(device)
        temperature, top_p, top_k, seed, position = sent
        return Draws(temperature.view(torch.float64), top_k, top_p.view(torch.float64), seed, position)

    def rows(self, rows: torch.Tensor) -> Draws:
        """Those of some rows."""
        columns = (self.temperature, self.top_k, self.top_p, self.seed, self.position)
        return Draws(*(column[rows] for column in columns))


def sample(logits: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    """The next token of each row; see `draw`."""
    if all(draw.temperature <= 0 for draw in draws):
        return logits.argmax(dim=-1)
    return draw(logits, Draws.of(draws, logits.device))


@kernel
def draw(logits: torch.Tensor, draws: Draws) -> torch.Tensor:
    """The next token of each row: `logits` [rows, vocab] to int64 [rows] on the same device.

    A token whose logit is -inf is never drawn. Filters apply as elsewhere: temperature, then top-k, then
    top-p; of equally likely tokens at a filter's edge, those with the lower ids are kept.
    """
    greedy = logits.argmax(dim=-1)
    rows = (draws.temperature > 0).nonzero()[:, 0]
    if not len(rows):
        return greedy
    return greedy.index_copy(0, rows, _draw(logits[rows].double(), draws.rows(rows)))


def _draw(logits: torch.Tensor, draws: Draws) -> torch.Tensor:
    """Invert the cumulative distribution, in vocabulary order, at each row's uniform number."""
    logits = logits - logits.amax(dim=-1, keepdim=True)
    weights = torch.softmax(logits / draws.temperature[:, None], dim=-1)
    top_k = torch.where(draws.top_k > 0, draws.top_k, logits.shape[-1])
    if (top_k < logits.shape[-1]).any() or (draws.top_p < 1.0).any():
        weights = _filter(weights, top_k[:, None], draws.top_p[:, None])
    cumulative = weights.cumsum(dim=-1)
    target = uniform(draws.seed, draws.position)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(-1)


def _filter(weights: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Keep the `top_k` largest weights, of these the fewest that make up `top_p` of their sum."""
    ordered, order = weights.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(weights.shape[-1], device=weights.device)
    kept = ordered.masked_fill(rank >= top_k, 0.0)
    before = kept.cumsum(dim=-1) - kept
    outside = (before >= top_p * kept.sum(dim=-1, keepdim=True)) & (top_p < 1.0)
    return torch.zeros_like(weights).scatter(-1, order, kept.masked_fill(outside, 0.0))


def uniform(seed: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """Numbers in (0, 1) with 32 random bits, by two rounds of SplitMix64 (Steele et al., OOPSLA 2014).

    Both are int64, of which all bits count; the result is float64.
    """
    mixed = _split_mix(_split_mix(seed) + position)
    return (_shifted(mixed, 32).double() + 0.5) / (1 << 32)


def _split_mix(state: torch.Tensor) -> torch.Tensor:
    state = state + _signed(0x9E3779B97F4A7C15)
    state = (state ^ _shifted(state, 30)) * _signed(0xBF58476D1CE4E5B9)
    state = (state ^ _shifted(state, 27)) * _signed(0x94D049BB133111EB)
    return state ^ _shifted(state, 31)


def _shifted(state: torch.Tensor, bits: int) -> torch.Tensor:
    """A logical shift to the right."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)


def _signed(number: int) -> int:
    """The int64 with the lowest 64 bits of `number`."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)
