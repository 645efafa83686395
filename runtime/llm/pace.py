"""How much longer steps with drafts take than steps that are begun ahead, as observed."""

from __future__ import annotations

from typing import Final

__all__ = ["Pace"]

_LEARNING_RATE: Final = 1 / 16
_FORGETTING_RATE: Final = 1 / 1024
_AT_FIRST: Final = 0.5
_LOOK_S: Final = 150e-6
"""A text's share of a step below which drafting costs more than it saves: on an H100, Llama's 8B shape gained
with 64 texts (180 µs each), four of its layers with 8 (160), but no longer with 32 (50)."""


class Pace:
    """The time from one step's end to the next one's, by how many texts are written: to powers of two."""

    def __init__(self) -> None:
        self._ahead: dict[int, float] = {}  # seconds
        self._drafted: dict[int, float] = {}

    def learn(self, texts: int, seconds: float, *, drafted: bool) -> None:
        """Take note of a step of decodes: with drafts, or begun ahead.

        What has been found of drafts is forgotten while there are none, so that it is tried again.
        """
        size = texts.bit_length()
        times = self._drafted if drafted else self._ahead
        times[size] = times.get(size, seconds) + _LEARNING_RATE * (seconds - times.get(size, seconds))
        if not drafted and size in self._drafted:
            usual = (1 + _AT_FIRST) * self._ahead[size]
            self._drafted[size] += _FORGETTING_RATE * (usual - self._drafted[size])

    def leisurely(self, texts: int) -> bool:
        """Whether steps take so long that there is time to look into every text."""
        return self._ahead.get(texts.bit_length(), _LOOK_S * texts) >= _LOOK_S * texts

    def price(self, texts: int) -> float:
        """How many tokens a text must gain by a step with drafts, for it to be no slower than others."""
        size = texts.bit_length()
        if size in self._ahead and size in self._drafted:
            return max(self._drafted[size] / self._ahead[size] - 1, 0.0)
        return _AT_FIRST
