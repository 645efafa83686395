"""Drafts from the context: what followed where the text last ended as it ends now. Pure.

Answers over documents, tool calls and revisions copy from their prompts, so what comes next often stands
there already (Yang et al., "Inference with Reference", arXiv 2304.04487, section 3). Drafts are verified by
the model: they decide how many steps a text takes, not what it says.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from weft.runtime.kv.radix import Tokens

__all__ = ["MOST_DRAFTED", "Drafting", "Lookup", "Trust", "find"]

MOST_DRAFTED: Final = 16  # tokens
_LONGEST: Final = 8  # tokens that two texts agree in, beyond which more of them promise no more
_LEARNING_RATE: Final = 1 / 32
_AT_FIRST: Final = 0.5


class Drafting(NamedTuple):
    """How a text is drafted from its context when a step has ended."""

    least: float  # how likely what is drafted must be
    most: int  # tokens
    ahead: bool = False  # whether the next step has been begun without: then it is for the one after that


class Trust:
    """How likely a text goes on like one that it has agreed with so far, as observed. Shared by all texts."""

    def __init__(self) -> None:
        self._odds = [_AT_FIRST] * _LONGEST  # by the tokens of agreement, from one

    def learn(self, agreed: int, right: bool) -> None:
        """Take note of whether a token came as it did elsewhere, after so many that had."""
        index = min(agreed, _LONGEST) - 1
        self._odds[index] += _LEARNING_RATE * (right - self._odds[index])

    def likely(self, agreed: int, least: float) -> list[float]:
        """How likely the next tokens all come, up to each of them, while it is at least `least`."""
        found: list[float] = []
        likely = 1.0
        for count in range(MOST_DRAFTED):
            likely *= self._odds[min(agreed + count, _LONGEST) - 1]
            if likely < least:
                break
            found.append(likely)
        return found


class Lookup:
    """What is drafted for one text, and whether it came true. What was not drafted teaches as much."""

    __slots__ = ("_agreed", "_guess", "_trust", "likely")

    def __init__(self, trust: Trust) -> None:
        self._trust = trust
        self._guess: list[int] = []  # what is expected next, the last first
        self._agreed = 0
        self.likely: list[float] = []
        """How likely the last draft is right, up to each of its tokens."""

    def draft(self, tokens: Tokens, room: int, least: float) -> list[int]:
        """What probably follows on `tokens` (int64): at most `room`, all right with probability `least`."""
        self._agreed, following = find(tokens)
        guess: list[int] = following.tolist()
        self._guess = guess[::-1]
        self.likely = self._trust.likely(self._agreed, least)[: min(len(guess), room)] if guess else []
        return guess[: len(self.likely)]

    def take(self, token: int) -> None:
        """Compare the next token of the text with what was expected."""
        if self._guess:
            right = self._guess.pop() == token
            self._trust.learn(self._agreed, right)
            self._agreed += 1
            if not right:
                self._guess = []


def find(tokens: Tokens) -> tuple[int, Tokens]:
    """How many last tokens stand elsewhere in `tokens` (int64), too, and the 16 that follow there.

    Of several places it is one where the most tokens agree, up to 8, and of those the last. Where fewer than
    16 follow, the text repeats itself, and it is supposed to go on like that. Agreement of 0: the last token
    stands nowhere else; nothing follows.
    """
    end = len(tokens) - 1
    places = np.flatnonzero(tokens[:end] == tokens[end])
    if not len(places):
        return 0, tokens[:0]
    agreed = 1
    while agreed < _LONGEST:
        longer = places[places >= agreed]
        longer = longer[tokens[longer - agreed] == tokens[end - agreed]]
        if not len(longer):
            break
        places, agreed = longer, agreed + 1
    first = int(places[-1]) + 1
    return agreed, np.resize(tokens[first : first + MOST_DRAFTED], MOST_DRAFTED)
