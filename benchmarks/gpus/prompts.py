"""The prompts of the loads, the same for whoever is measured under them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

__all__ = ["PREFIX_OUTPUT", "PREFIX_REQUESTS", "PREFIX_TREES", "Ids", "prompt_of", "tree", "unshared"]

Ids = tuple[int, ...]

PREFIX_REQUESTS: Final = 64
PREFIX_OUTPUT: Final = 480  # tokens that each writes
PREFIX_TREES: Final = {"one prefix": (6000,), "two levels": (3000, 3000)}
"""The tokens of a prefix at each level: the first is common to all, each further one to a quarter."""

_BRANCHES: Final = 4
_OWN: Final = 16  # tokens of a prompt that it shares with none


def prompt_of(length: int, vocab: int, chance: random.Random, *, above: int = 0) -> Ids:
    """Made-up tokens, of `vocab` ones `above` some number."""
    return tuple(chance.choices(range(above + 10, above + vocab), k=length))


def unshared(count: int, length: int, vocab: int, seed: int) -> list[Ids]:
    """Prompts that share nothing."""
    chance = random.Random(seed)
    return [prompt_of(length, vocab, chance) for _ in range(count)]


def tree(levels: Sequence[int], vocab: int, seed: int) -> list[Ids]:
    """Prompts below a tree of prefixes."""
    chance = random.Random(seed)
    heads: list[Ids] = [()]
    for depth, length in enumerate(levels):
        branches = _BRANCHES if depth else 1
        heads = [head + prompt_of(length, vocab, chance) for head in heads for _ in range(branches)]
    return [heads[n % len(heads)] + prompt_of(_OWN, vocab, chance) for n in range(PREFIX_REQUESTS)]
