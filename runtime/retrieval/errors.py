"""What can go wrong in retrieval.

RetrievalError
├── CorpusError          a folder of documents cannot be read
├── UnwritableError      the place of the indexes cannot be written
├── IndexServerError     the database of the indexes cannot be used
├── ModelError           an embedding or reranking model cannot be loaded
├── UnknownIndexError    no index of that name
├── IndexMismatchError   vectors of another embedder or dimension than the index holds
├── CorruptIndexError    a stored index cannot be read
└── IndexBusyError       another writer has held the index for too long

Arguments that are wrong in themselves (a bad name, k = 0) raise `ValueError`.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "CorpusError",
    "CorruptIndexError",
    "IndexBusyError",
    "IndexMismatchError",
    "IndexServerError",
    "ModelError",
    "RetrievalError",
    "UnknownIndexError",
    "UnwritableError",
]


class RetrievalError(Exception):
    """The base of all errors of retrieval."""


class CorpusError(RetrievalError):
    """A folder of documents is missing, empty or holds a file that cannot be read."""


class UnwritableError(RetrievalError):
    """The place of the indexes cannot be written."""


class IndexServerError(RetrievalError):
    """The database that holds the indexes cannot be reached, or does not let in who asks."""


class ModelError(RetrievalError):
    """A model cannot be loaded: its folder, or the package that runs it, is missing or unusable."""


class UnknownIndexError(RetrievalError):
    """There is no index `name`; the message lists those that exist."""

    def __init__(self, name: str, existing: Sequence[str]) -> None:
        known = ", ".join(repr(other) for other in existing) or "none; ingest documents to create one"
        super().__init__(f"index {name!r} does not exist (existing indexes: {known})")
        self.name = name
        self.existing = tuple(existing)


class IndexMismatchError(RetrievalError):
    """The vectors come from another embedder, or have another dimension, than those of the index."""


class CorruptIndexError(RetrievalError):
    """What is stored of an index cannot be read, or was not written by weft."""


class IndexBusyError(RetrievalError):
    """Another writer has held the lock of the index for longer than a writer waits."""
