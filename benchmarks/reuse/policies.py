"""What of a prompt is computed anew, and what is taken from passages that were read alone.

Every policy is a choice of tokens to recompute. The instruction and the question always are; the KV of other
tokens comes from reading their passage alone, right behind the instruction.

- `full`: everything, in one pass; what the others are compared with.
- `prefix`: everything, but the instruction from a cache: what exact prefix sharing does.
- `naive`: no passage token; keys are rotated to their places.
- `unrotated`: the same with the positions at which the passages were read, right behind the instruction.
- `first`: the first tokens of each passage (EPIC, https://arxiv.org/abs/2410.15332).
- `deviation`: those whose KV of the second layer, the first that depends on context, differs most from what
  was read alone (CacheBlend, https://arxiv.org/abs/2405.16444; chosen once, not again on later layers).
- `random`: any, the control that a criterion has to beat at the same share.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from weft.apps.reference_model.training.network import Network

from .prompts import Prompt
from .states import States, compute

__all__ = ["CHOOSERS", "Policy", "Situation", "read_alone", "recomputed", "run"]


@dataclass(frozen=True, slots=True)
class Situation:
    """A prompt, the KV of its passages read alone, and how much may be recomputed."""

    network: Network
    prompt: Prompt
    alone: States
    share: float


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy by name; `share` of the passages' tokens, for those that choose."""

    name: str
    share: float = 0.0

    def __str__(self) -> str:
        return f"{self.name} {self.share:.0%}" if self.name in CHOOSERS else self.name


Chooser = Callable[[Situation], list[int]]
"""Positions of the passages' tokens to recompute."""


def read_alone(network: Network, prompt: Prompt, length: int) -> States:
    """The KV of the passages, each read right behind the instruction, among states of so many tokens.

    Positions are those of the prompt.
    """
    states = States.blank(network.shape, length)
    before = len(prompt.head)
    head = States.blank(network.shape, before)
    if before:
        compute(network, torch.tensor(prompt.head), torch.arange(before), head)
    for start, chunk in zip(prompt.starts, prompt.chunks, strict=True):
        end = before + len(chunk)
        own = States.blank(network.shape, end)
        own.keys[:, :, :before], own.values[:, :, :before] = head.keys, head.values
        compute(network, torch.tensor([*prompt.head, *chunk]), torch.arange(before, end), own)
        states.keys[:, :, start : start + len(chunk)] = own.keys[:, :, before:]
        states.values[:, :, start : start + len(chunk)] = own.values[:, :, before:]
    return states


def run(network: Network, prompt: Prompt, reply: list[int], policy: Policy, alone: States) -> Tensor:
    """Scores (tokens of the reply, vocabulary) of what comes next, before each token of a given reply.

    `alone` is what `read_alone` returned for at least as many tokens as prompt and reply have.
    """
    tokens = torch.tensor([*prompt.tokens, *reply])
    states = alone.copy(len(tokens))
    if policy.name == "full":
        states = States.blank(network.shape, len(tokens))
    elif policy.name == "prefix":
        states = States.blank(network.shape, len(tokens))
        compute(network, tokens, torch.arange(len(prompt.head)), states)
    elif policy.name == "unrotated":
        for start, chunk in zip(prompt.starts, prompt.chunks, strict=True):
            first = len(prompt.head)
            states.rotary[start : start + len(chunk)] = torch.arange(first, first + len(chunk))
    rows = recomputed(Situation(network, prompt, alone, policy.share), policy)
    rows += range(len(prompt.tokens), len(tokens))
    hidden = compute(network, tokens, torch.tensor(rows), states)
    with torch.no_grad():
        return network.logits(hidden[-len(reply) - 1 : -1])


def recomputed(situation: Situation, policy: Policy) -> list[int]:
    """The positions of the prompt that are computed anew, ascending."""
    prompt = situation.prompt
    first, end, size = len(prompt.head), prompt.end, len(prompt.tokens)
    match policy.name:
        case "full":
            return list(range(size))
        case "prefix":
            return list(range(first, size))
        case "naive" | "unrotated":
            chosen: list[int] = []
        case name:
            chosen = sorted(CHOOSERS[name](situation))
    return [*range(first), *chosen, *range(end, size)]


def _first(situation: Situation) -> list[int]:
    prompt = situation.prompt
    return [
        start + index
        for start, chunk in zip(prompt.starts, prompt.chunks, strict=True)
        for index in range(math.ceil(situation.share * len(chunk)))
    ]


def _deviation(situation: Situation) -> list[int]:
    network, prompt, alone = situation.network, situation.prompt, situation.alone
    tokens = torch.tensor(prompt.tokens)
    true = States.blank(network.shape, len(tokens))
    compute(network, tokens, torch.arange(len(tokens)), true, layers=2)
    inside = slice(len(prompt.head), prompt.end)
    keys = (true.keys[1][:, inside] - alone.keys[1][:, inside]).square().sum((0, 2))
    values = (true.values[1][:, inside] - alone.values[1][:, inside]).square().sum((0, 2))
    # Each over what is usual, as keys are larger than values.
    differences = keys / keys.mean().clamp(min=1e-12) + values / values.mean().clamp(min=1e-12)
    best: list[int] = differences.topk(_allowed(situation)).indices.tolist()
    return [len(prompt.head) + index for index in best]


def _random(situation: Situation) -> list[int]:
    prompt = situation.prompt
    rng = random.Random(len(prompt.tokens))
    return rng.sample(range(len(prompt.head), prompt.end), _allowed(situation))


def _allowed(situation: Situation) -> int:
    """How many passage tokens may be recomputed; rounded up in every passage, as `first` does."""
    return sum(math.ceil(situation.share * len(chunk)) for chunk in situation.prompt.chunks)


CHOOSERS: Final[dict[str, Chooser]] = {"first": _first, "deviation": _deviation, "random": _random}
"""The policies that recompute a share of the passages' tokens, by name."""
