"""Texts into vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .hashing import HashEmbedder
from .models import load_model, model_folder

__all__ = ["Embedder", "HashEmbedder", "SentenceTransformerEmbedder", "load_embedder"]


class Embedder(Protocol):
    """Maps texts to vectors whose dot product says how alike two texts are."""

    @property
    def name(self) -> str:
        """Names the vector space: an index takes vectors of one embedder only."""

    @property
    def dimension(self) -> int:
        """The length of a vector."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32 `[len(texts), dimension]`, rows of length 1 (or 0, for a text with nothing to embed)."""


class SentenceTransformerEmbedder:
    """Any model in a sentence-transformers folder (needs the extra `weft[models]`).

    The name is that of the folder. Raises `ModelError` if the package or the folder is missing or unusable.
    """

    def __init__(self, path: str | Path, device: str = "cpu") -> None:
        folder = model_folder(path)
        self.name = folder.name
        self._model = load_model("SentenceTransformer", folder, device)
        self.dimension = int(self._encode(["dimension"]).shape[1])

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32 `[len(texts), dimension]`, rows of length 1; in batches of texts of similar length."""
        if not texts:
            return np.zeros((0, self.dimension), np.float32)
        return self._encode(texts)

    def _encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = self._model.encode(
            list(texts), normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
        )
        return np.asarray(vectors, np.float32)


def load_embedder(spec: str | None, device: str = "cpu") -> Embedder:
    """The embedder that `spec` names: None or `weft-hash-v1` the built-in one, else a model's folder.

    `device` is torch's name for where a model runs; the built-in embedder always runs on the CPU.
    """
    if spec is None or spec == HashEmbedder.name:
        return HashEmbedder()
    return SentenceTransformerEmbedder(spec, device)
