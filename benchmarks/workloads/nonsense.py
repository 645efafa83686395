"""Texts whose length is all that matters."""

from __future__ import annotations

import random
from typing import Final

__all__ = ["nonsense"]

_WORDS: Final = ("wool", "loom", "warp", "thread", "shuttle", "cloth", "dye", "pattern", "weaver", "spool")


def nonsense(rng: random.Random, words: int) -> str:
    """So many words at random."""
    return " ".join(rng.choice(_WORDS) for _ in range(words))
