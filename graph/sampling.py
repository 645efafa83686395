"""How a decode draws its tokens, and what its text must conform to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Final

__all__ = ["DEFAULT_SAMPLING", "Choices", "Constraint", "JsonSchema", "Regex", "Sampling"]

_SEEDS: Final = 2**64  # from -2**63 on


@dataclass(frozen=True)
class Sampling:
    """The parameters of one decode. `temperature == 0` is greedy and therefore deterministic."""

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0  # 0: the whole vocabulary
    seed: int = 0
    stop: tuple[str, ...] = ()
    """Texts that end the decode; the text before the first of them is the result."""
    ignore_eos: bool = False
    """Whether the model writes on when it would end, so that only `max_tokens` and `stop` end the text."""

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {self.max_tokens}")
        if not 0.0 <= self.temperature <= 100.0:
            raise ValueError(f"temperature must lie between 0 and 100, not {self.temperature}")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p must lie in (0, 1], not {self.top_p}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 (off) or positive, not {self.top_k}")
        if "" in self.stop:
            raise ValueError("stop must not hold an empty string: it would end every text at once")

    @property
    def greedy(self) -> bool:
        """Whether each token is the most likely one, so that equal prompts give equal texts."""
        return self.temperature == 0.0

    def of_sample(self, number: int) -> Sampling:
        """How one of several samples of a prompt is drawn: from the seeds that follow, of 64 bits each."""
        return replace(self, seed=(self.seed + number + _SEEDS // 2) % _SEEDS - _SEEDS // 2)

    def of_copy(self, number: int) -> Sampling:
        """How one of several copies of the decode draws: from a seed that follows from this one."""
        if self.greedy:
            return self
        mixed = blake2b(f"{self.seed} {number}".encode(), digest_size=8).digest()
        return replace(self, seed=int.from_bytes(mixed) >> 1)


DEFAULT_SAMPLING = Sampling()
"""Greedy, 256 tokens at the most."""


@dataclass(frozen=True)
class JsonSchema:
    """The text is one JSON value that conforms to `schema` (JSON text of a JSON Schema)."""

    schema: str


@dataclass(frozen=True)
class Regex:
    """The whole text matches `pattern`."""

    pattern: str


@dataclass(frozen=True)
class Choices:
    """The text is one of `options`."""

    options: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.options:
            raise ValueError("choices must not be empty")
        if len(set(self.options)) != len(self.options):
            raise ValueError("choices must differ from one another")


Constraint = JsonSchema | Regex | Choices
