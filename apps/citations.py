"""Answers that say which passages they rest on."""

from __future__ import annotations

import re
from dataclasses import dataclass

from weft import Passage

__all__ = ["Cited"]

_NUMBERS = re.compile(r"\s*((?:\[\d+\])+)$")


@dataclass
class Cited:
    """An answer, and the passages that were read for it."""

    answer: str
    """As the model wrote it: ``[2]`` means the second passage."""
    passages: list[Passage]

    @property
    def text(self) -> str:
        """The answer without the citations."""
        return _NUMBERS.sub("", self.answer)

    @property
    def sources(self) -> list[Passage]:
        """The passages that the answer cites. Numbers that no passage has are left out."""
        cited = _NUMBERS.search(self.answer)
        numbers = [int(number) for number in re.findall(r"\d+", cited[1])] if cited else []
        return [self.passages[number - 1] for number in numbers if 0 < number <= len(self.passages)]
