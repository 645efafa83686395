"""Tokens of training texts, as the tokenizer of the model makes them, but several times faster."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from tokenizers import Tokenizer

__all__ = ["ASSISTANT", "BOS", "END", "MODEL", "PAD", "SYSTEM", "USER", "VOCABULARY", "Encoder"]

MODEL: Final = Path(__file__).parents[1] / "model"
"""The folder of the bundled model; its tokenizer is given, only the weights are made anew."""
PAD, BOS, END, SYSTEM, USER, ASSISTANT = range(6)
VOCABULARY: Final = 4096

_ASCII_WORDS: Final = re.compile(
    r"\n|[0-9]{1,2}|'(?:s|t|re|ve|m|ll|d)\b| ?[a-z]+|[A-Z]+[a-z]*| ?[^\sA-Za-z0-9]+|\s"
)
"""How the tokenizer cuts ASCII text: capital letters and digits never join the space before them."""
_MOST_WORDS: Final = 400_000


class Encoder:
    """Encodes ASCII text; words are looked up in a table, and the tokenizer is asked for new ones only."""

    def __init__(self, folder: Path = MODEL) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._words: dict[str, list[int]] = {}

    def __call__(self, text: str) -> list[int]:
        """The ids, without any special ones."""
        ids: list[int] = []
        words = self._words
        for word in _ASCII_WORDS.findall(text):
            found = words.get(word)
            if found is None:
                if len(words) > _MOST_WORDS:
                    words.clear()
                found = words[word] = self._tokenizer.encode(word).ids
            ids += found
        return ids
