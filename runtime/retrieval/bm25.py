"""Okapi BM25 over the texts of an index, held in memory.

Scores are exact and depend only on the stored texts and the query: not on the order of ingests, on the batch
or on background indexing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .terms import terms

__all__ = ["Bm25", "TermIds"]

K1 = 1.2  # saturation of the term frequency
B = 0.75  # normalization by length


@dataclass(frozen=True, slots=True)
class TermIds:
    """Analyzed texts: kept from one version of an index to the next, so that only new texts cost anything."""

    vocabulary: Mapping[str, int]
    by_text: Mapping[str, NDArray[np.int32]]
    """For each text the ids of its terms, in order, repeats included."""

    @classmethod
    def of(cls, texts: Sequence[str], known: TermIds | None = None) -> TermIds:
        """The terms of `texts`; those of texts that are in `known` are taken from it."""
        vocabulary = dict(known.vocabulary) if known else {}
        by_text: dict[str, NDArray[np.int32]] = {}
        for text in texts:
            ids = known.by_text.get(text) if known else None
            if ids is None:
                ids = np.array([vocabulary.setdefault(t, len(vocabulary)) for t in terms(text)], np.int32)
            by_text[text] = ids
        return cls(vocabulary, by_text)


@dataclass(frozen=True, slots=True)
class Bm25:
    """An inverted index with the BM25 weight of every posting (Robertson and Zaragoza 2009, section 3.4).

    The inverse document frequency is Lucene's `ln(1 + (N - n + 0.5) / (n + 0.5))`, which is never negative.
    """

    vocabulary: Mapping[str, int]
    starts: NDArray[np.int64]  # [terms + 1]: the postings of term t are starts[t]:starts[t + 1]
    rows: NDArray[np.int32]  # [postings], ascending within a term
    weights: NDArray[np.float64]  # [postings]
    size: int  # texts

    @property
    def terms(self) -> int:
        """How many terms of the vocabulary the texts have; the others are of texts of earlier versions."""
        return int(np.count_nonzero(np.diff(self.starts)))

    @classmethod
    def build(cls, texts: Sequence[str], analyzed: TermIds) -> Bm25:
        """The index of `texts`, whose terms `analyzed` holds; row i is `texts[i]`."""
        size, vocabulary = len(texts), analyzed.vocabulary
        ids = [analyzed.by_text[text] for text in texts]
        lengths = np.array([len(row) for row in ids], np.int64)
        keys = np.concatenate([np.zeros(0, np.int64), *ids]).astype(np.int64) * size
        keys += np.repeat(np.arange(size), lengths)
        postings, frequency = np.unique(keys, return_counts=True)  # by term, then by row
        term, row = np.divmod(postings, max(size, 1))
        matches = np.bincount(term, minlength=len(vocabulary))
        idf = np.log1p((size - matches + 0.5) / (matches + 0.5))
        relative_length = lengths / max(lengths.mean() if size else 1.0, 1e-9)
        saturation = frequency + K1 * (1 - B + B * relative_length[row])
        weights = idf[term] * frequency * (K1 + 1) / saturation
        starts = np.concatenate([[0], np.cumsum(matches)]).astype(np.int64)
        return cls(vocabulary, starts, row.astype(np.int32), weights, size)

    def scores(self, query: str) -> NDArray[np.float64]:
        """float64 `[size]`: the score of each text; 0 for those without a term of the query."""
        scores = np.zeros(self.size)
        for term in terms(query):
            found = self.vocabulary.get(term)
            if found is not None:
                postings = slice(self.starts[found], self.starts[found + 1])
                scores[self.rows[postings]] += self.weights[postings]
        return scores
