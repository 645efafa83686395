"""Reranking and the merging of rankings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .documents import Passage
from .errors import ModelError
from .fusion import RRF_K, reciprocal_ranks
from .models import load_model, model_folder

__all__ = ["CrossEncoderReranker", "Reranker", "fuse", "merge_queries", "top_k"]


class Reranker(Protocol):
    """Scores how well a text answers a query, both read together."""

    @property
    def name(self) -> str:
        """What `weft models` calls it."""

    def score(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """float32 `[len(pairs)]` for pairs (query, text); higher is better."""


class CrossEncoderReranker:
    """A cross-encoder in a sentence-transformers folder (needs the extra `weft[models]`).

    Raises `ModelError` if the package or the folder is missing or unusable, or if the model gives more
    than one score for a pair.
    """

    def __init__(self, path: str | Path, device: str = "cpu") -> None:
        folder = model_folder(path)
        self.name = folder.name
        self._model = load_model("CrossEncoder", folder, device)
        labels = int(self._model.config.num_labels)
        if labels != 1:
            raise ModelError(f"model {str(folder)!r} gives {labels} scores a pair; a reranker gives 1")

    def score(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """float32 `[len(pairs)]`; computed in batches of pairs of similar length."""
        if not pairs:
            return np.zeros(0, np.float32)
        scores = self._model.predict(list(pairs), show_progress_bar=False, convert_to_numpy=True)
        return np.asarray(scores, np.float32).reshape(len(pairs))


def top_k(passages: Sequence[Passage], scores: ArrayLike, k: int) -> list[Passage]:
    """The `k` best of `passages` by `scores` `[n]`, each with its new score; fewer if there are fewer.

    Equal scores keep the order of `passages`; of passages with one id only the first is kept. `ValueError`
    if `k` is less than 1, if the lengths differ, or if a score is not a finite number.
    """
    values = np.asarray(scores, np.float64)
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    if values.shape != (len(passages),):
        raise ValueError(f"{len(passages)} passages need as many scores, not {list(values.shape)}")
    if not np.isfinite(values).all():
        raise ValueError(
            f"the score of passage {passages[int(np.argmin(np.isfinite(values)))].id!r} is not finite"
        )
    scored = [replace(passage, score=float(score)) for passage, score in zip(passages, values, strict=True)]
    return sorted(_first_of_each(scored), key=lambda passage: -passage.score)[:k]


def fuse(rankings: Sequence[Sequence[Passage]], k: int = RRF_K) -> list[Passage]:
    """One ranking of all passages by reciprocal-rank fusion; `score` is the fused score, ties go by id."""
    scores = reciprocal_ranks(([passage.id for passage in ranking] for ranking in rankings), k)
    passages = _first_of_each(passage for ranking in rankings for passage in ranking)
    fused = [replace(passage, score=scores[passage.id]) for passage in passages]
    return sorted(fused, key=lambda passage: (-passage.score, passage.id))


def merge_queries(results: Iterable[Iterable[Passage]]) -> list[Passage]:
    """The results of several queries one after another; of passages with one id only the first is kept."""
    return _first_of_each(passage for result in results for passage in result)


def _first_of_each(passages: Iterable[Passage]) -> list[Passage]:
    first: dict[str, Passage] = {}
    for passage in passages:
        first.setdefault(passage.id, passage)
    return list(first.values())
