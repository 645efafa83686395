"""One version of an index in memory, and the searches over it.

A snapshot never changes, so any number of threads may search it while the next version is being written or
loaded; the lexical and the vector half of a hybrid search always see the same rows. Vector search is exact:
for the sizes that weft embeds (up to some 100,000 passages) one matrix product per batch is quicker than a
scan of the files, and needs no index that would have to be kept up to date.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .bm25 import Bm25, TermIds
from .documents import Passage
from .filters import MetadataRows, Where
from .fusion import reciprocal_ranks

__all__ = ["Mode", "Snapshot"]

Mode = Literal["vector", "lexical", "hybrid"]

_FUSION_DEPTH = 100  # how much of each ranking a hybrid search fuses, unless k asks for more
_QUERIES_AT_ONCE = 64  # bounds the memory of a batch: 64 x 100,000 float32 scores are 26 MB
_ROWS_AT_ONCE = 4096
_ROUNDING = 1e-4  # more than a float32 dot product of unit vectors can be off, whatever the batch


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The rows of an index at one version, sorted by passage id, so that row order breaks ties."""

    key: tuple[str, int]
    """The identity of the index and its version: two snapshots with one key hold the same rows."""
    passages: Sequence[Passage]
    vectors: NDArray[np.float32]  # [passages, dimension], rows of length 1 (or 0)
    terms: TermIds
    bm25: Bm25
    rows: Mapping[str, int]
    """The row of each passage id."""
    metadata: MetadataRows

    @property
    def lasting_terms(self) -> TermIds | None:
        """What spares the next version the analysis of texts; None once most of it is of texts long gone."""
        return self.terms if 2 * self.bm25.terms >= len(self.terms.vocabulary) else None

    def neighbours(self, found: Sequence[Passage], preceding: int, following: int) -> list[Passage]:
        """Each of `found` between those that stand around it in its document.

        None comes twice. Passages of one document that touch stand together in the order of the document,
        where the first of them is in `found`. A neighbour has the score of the one it was taken for. What a
        newer edition of its document no longer has is left out. Raises `ValueError` for what belongs to no
        document here.
        """
        for passage in found:
            if passage.id not in self.rows and _id(passage.id.rpartition("#")[0], 1) not in self.rows:
                raise ValueError(
                    f"passage {passage.id!r} is of no document of this index; "
                    "neighbours() takes what a search of the same index has found"
                )
        scores = {passage.id: passage.score for passage in reversed(found) if passage.id in self.rows}
        taken: dict[tuple[str, int], float] = {}
        for id, score in reversed(scores.items()):
            document, position = _place(id)
            last = min(position + following, len(self.rows))
            for other in range(max(position - preceding, 1), last + 1):
                if _id(document, other) in self.rows:
                    taken.setdefault((document, other), scores.get(_id(document, other), score))
        return [
            replace(self.passages[self.rows[_id(*place)]], score=taken[place]) for place in _in_runs(taken)
        ]

    def search(
        self,
        queries: Sequence[str],
        vectors: NDArray[np.float32] | None,
        ks: Sequence[int],
        mode: Mode,
        where: Where = (),
    ) -> list[list[Passage]]:
        """At most `ks[i]` passages for `queries[i]` with `vectors` `[queries, dimension]`, best first.

        All of them meet the condition `where`. The score is BM25 (lexical), the cosine (vector) or the fused
        reciprocal rank (hybrid). A query alone and the same query in a batch find the same.
        """
        depths = [max(k, _FUSION_DEPTH) if mode == "hybrid" else k for k in ks]
        rankings: list[list[_Ranking]] = [[] for _ in queries]
        allowed = self.metadata.matching(where) if where else None
        if mode != "vector":
            for ranking, query, depth in zip(rankings, queries, depths, strict=True):
                ranking.append(self._lexical(query, depth, allowed))
        if vectors is not None:
            for ranking, found in zip(rankings, self._nearest(vectors, depths, allowed), strict=True):
                ranking.append(found)
        return [
            self._passages(_fused(ranking) if mode == "hybrid" else ranking[0], k, query)
            for ranking, k, query in zip(rankings, ks, queries, strict=True)
        ]

    def _passages(self, ranking: _Ranking, k: int, query: str) -> list[Passage]:
        if not query.strip():
            return []  # nothing was asked for, so nothing is near it
        return [
            Passage(found.id, found.text, score, found.source, found.metadata)
            for found, score in ((self.passages[row], score) for row, score in ranking[:k])
        ]

    def _lexical(self, query: str, k: int, allowed: _Rows | None) -> _Ranking:
        scores = self.bm25.scores(query)
        rows = np.flatnonzero(scores) if allowed is None else allowed[scores[allowed] != 0]
        return _best(rows, scores[rows], k)

    def _nearest(
        self, queries: NDArray[np.float32], ks: Sequence[int], allowed: _Rows | None
    ) -> list[_Ranking]:
        """The `allowed` rows nearest to each of `queries` `[q, dimension]`; none for a query that is zero."""
        found: list[_Ranking] = []
        for first in range(0, len(queries), _QUERIES_AT_ONCE):
            block = queries[first : first + _QUERIES_AT_ONCE]
            cosines = block @ self.vectors.T  # [block, passages]
            for query, row, k in zip(block, cosines, ks[first:], strict=False):
                found.append(self._exact(query, row, k, allowed) if query.any() else [])
        return found

    def _exact(
        self, query: NDArray[np.float32], cosines: NDArray[np.float32], k: int, allowed: _Rows | None
    ) -> _Ranking:
        """The best `k` of the `allowed` rows, in float64.

        The rounding of a matrix product depends on the shape of the batch and the place of a row in it.
        It only serves to find the candidates, so that neither decides which of two rows is nearer.
        """
        cosines = cosines if allowed is None else cosines[allowed]
        near = np.flatnonzero(cosines >= _kth_largest(cosines, k) - _ROUNDING)
        rows = near if allowed is None else allowed[near]
        wide = query.astype(np.float64)
        blocks = [rows[i : i + _ROWS_AT_ONCE] for i in range(0, len(rows), _ROWS_AT_ONCE)]
        exact = [(self.vectors[block].astype(np.float64) * wide).sum(axis=1) for block in blocks]
        return _best(rows, np.concatenate([np.zeros(0), *exact]), k)


def _place(id: str) -> tuple[str, int]:
    """The document and the position of a passage."""
    document, position = id.rsplit("#", 1)
    return document, int(position)


def _id(document: str, position: int) -> str:
    return f"{document}#{position}"


def _in_runs(places: Iterable[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    """Places in their order, but each run of adjacent ones as a whole, where its first one comes."""
    left = dict.fromkeys(places)
    while left:
        document, first = next(iter(left))
        while (document, first - 1) in left:
            first -= 1
        while (document, first) in left:
            yield document, first
            del left[document, first]
            first += 1


_Ranking = list[tuple[int, float]]  # (row, score), best first
_Rows = NDArray[np.int64]  # ascending


def _best(rows: NDArray[np.int64], scores: NDArray[np.float64], k: int) -> _Ranking:
    """The `k` best of `rows` (ascending) by `scores`, both `[n]`; ties in the order of rows."""
    kept = np.flatnonzero(scores >= _kth_largest(scores, k))
    order = kept[np.argsort(-scores[kept], kind="stable")][:k]
    return list(zip(rows[order].tolist(), scores[order].tolist(), strict=True))


def _kth_largest(scores: NDArray[np.floating], k: int) -> float:
    """The k-th largest of `scores` `[n]`; minus infinity if there are no more than `k`."""
    if len(scores) <= k:
        return -np.inf
    return float(np.partition(scores, len(scores) - k)[len(scores) - k])


def _fused(rankings: Sequence[_Ranking]) -> _Ranking:
    scores = reciprocal_ranks([row for row, _ in ranking] for ranking in rankings)
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))
