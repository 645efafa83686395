"""How answers of a policy compare with those of full recomputation, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from weft.apps.reference_model.training.encoder import END
from weft.apps.reference_model.training.network import Network

from .policies import Policy, read_alone, run
from .prompts import Prompt
from .states import States

__all__ = ["FULL", "GREEDY", "Interval", "Measured", "compare", "paired_interval"]

FULL: Final = Policy("full")
GREEDY: Final = 32
"""Tokens of the greedy reply of full recomputation over which agreement is counted, if it is so long."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One policy on one prompt."""

    exact: bool
    """Whether greedy decoding gives the right reply."""
    divergence: float
    """KL(full || policy) in nats, of the first token of the reply."""
    agreement: float
    """The share of full recomputation's greedy tokens that are likeliest here too, after the same tokens."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean, and the bounds between which 95 % of resampled means lie."""

    mean: float
    low: float
    high: float


def compare(network: Network, prompt: Prompt, policies: Sequence[Policy]) -> list[Measured]:
    """Every policy on a prompt."""
    room = len(prompt.tokens) + max(len(prompt.reply), GREEDY)
    alone = read_alone(network, prompt, room)
    full = run(network, prompt, prompt.reply, FULL, alone)
    exact = full.argmax(-1).tolist() == prompt.reply
    greedy = prompt.reply
    if not exact or len(greedy) > GREEDY:
        greedy = _decode(network, prompt, alone)
        full = run(network, prompt, greedy, FULL, alone)
    whole = Measured(exact, 0.0, 1.0)
    return [
        whole if policy == FULL else _measure(network, prompt, policy, greedy, full, alone)
        for policy in policies
    ]


def paired_interval(differences: Sequence[float], *, resamples: int = 2000, seed: int = 0) -> Interval:
    """Percentile bootstrap of the mean of differences, one a prompt (Efron 1979)."""
    values = np.asarray(differences, dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), (0.025, 0.975))
    return Interval(float(values.mean()), float(low), float(high))


def _measure(
    network: Network, prompt: Prompt, policy: Policy, greedy: list[int], full: Tensor, alone: States
) -> Measured:
    found = run(network, prompt, greedy, policy, alone)
    told = found if greedy == prompt.reply else run(network, prompt, prompt.reply, policy, alone)
    expected, got = (torch.log_softmax(scores[0].double(), -1) for scores in (full, found))
    return Measured(
        exact=told.argmax(-1).tolist() == prompt.reply,
        divergence=max(0.0, float((expected.exp() * (expected - got)).sum())),
        agreement=float((found.argmax(-1) == full.argmax(-1)).double().mean()),
    )


def _decode(network: Network, prompt: Prompt, alone: States) -> list[int]:
    """The greedy reply of full recomputation, with its end if it comes soon enough."""
    greedy: list[int] = []
    while len(greedy) < GREEDY and END not in greedy:
        # The token that is appended stands for the one that is asked for: no score depends on it.
        greedy.append(int(run(network, prompt, [*greedy, END], FULL, alone)[-1].argmax()))
    return greedy
