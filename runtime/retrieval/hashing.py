"""The built-in embedder: signed feature hashing of words and character n-grams.

It needs no model and is the same on every platform and in every process. It knows spelling, not meaning: a
model's embedder finds paraphrases, this one finds related words ("founder", "founded") and misspellings.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from .terms import terms
from .vectors import normalized

__all__ = ["HashEmbedder"]

_DIMENSION = 1024
_NGRAMS = (3, 4, 5)
_BLOCK = 256  # texts that are summed at once
_LONGEST = 24  # characters of a word that is remembered: longer ones, digests and such, seldom come again
_FUNCTION_WORD = 0.1  # the importance of a word that says nothing of the subject
_FUNCTION_WORDS = frozenset(
    terms(
        "a an the of to in on at by for from with as is are was were be been it its he she his her they "
        "their that this these those which who what when where how and or not no has have had do does did"
    )
)


class HashEmbedder:
    """Hashed words and character n-grams of 3 to 5, the hashing trick of Weinberger et al. (ICML 2009).

    Each word is a unit vector: half of its energy is the word itself, half its n-grams (with `^` and `$` at
    its ends, as in fastText). A text is the sum of its words, each weighted by `1 + ln(tf)` and by what
    stands in for the inverse document frequency that an embedder, knowing no corpus, cannot have: English
    function words count little, and longer words more, since in most languages frequent words are short
    (Zipf's law of abbreviation).
    """

    name = "weft-hash-v1"
    dimension = _DIMENSION

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32 `[len(texts), 1024]`, rows of length 1; a text without any term is the zero vector.

        A row depends on its own text only, never on the others of the batch.
        """
        blocks = [_embed_block(texts[i : i + _BLOCK]) for i in range(0, len(texts), _BLOCK)]
        return np.concatenate(blocks) if blocks else np.zeros((0, _DIMENSION), np.float32)


def _embed_block(texts: Sequence[str]) -> NDArray[np.float32]:
    positions: list[NDArray[np.int64]] = []  # row * dimension + column, text by text
    values: list[NDArray[np.float64]] = []
    for row, text in enumerate(texts):
        for word, count in Counter(terms(text)).items():
            columns, weights = (_remembered if len(word) <= _LONGEST else _word_features)(word)
            positions.append(columns + row * _DIMENSION)
            values.append(weights * (1.0 + math.log(count)))
    if not positions:
        return np.zeros((len(texts), _DIMENSION), np.float32)
    sums = np.bincount(np.concatenate(positions), np.concatenate(values), len(texts) * _DIMENSION)
    return normalized(sums.reshape(len(texts), _DIMENSION))


def _word_features(word: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The columns int64 `[f]` of `word` and their weights float64 `[f]`, signed."""
    grams = _ngrams(word)
    weights = [math.sqrt(0.5), *(math.sqrt(0.5 / len(grams)) for _ in grams)] if grams else [1.0]
    hashes = [_hash(feature) for feature in (f"w:{word}", *(f"g:{gram}" for gram in grams))]
    columns = np.array([code % _DIMENSION for code in hashes], np.int64)
    signs = np.array([1.0 if code >> 63 else -1.0 for code in hashes])
    return columns, signs * np.array(weights) * _importance(word)


_remembered = lru_cache(maxsize=65536)(_word_features)


def _ngrams(word: str) -> list[str]:
    """The n-grams of `^word$` that are shorter than `word`."""
    marked = f"^{word}$"
    return [marked[i : i + n] for n in _NGRAMS if n <= len(word) for i in range(len(marked) - n + 1)]


def _importance(word: str) -> float:
    """The weight of a word by the length of its UTF-8 form, so that a Chinese character counts as three."""
    if word in _FUNCTION_WORDS:
        return _FUNCTION_WORD
    return math.log2(1 + min(len(word.encode("utf-8", "surrogatepass")), 15)) / 4


def _hash(feature: str) -> int:
    """64 bits that are the same everywhere, unlike Python's `hash`."""
    digest = blake2b(feature.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")
