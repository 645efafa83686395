"""What the store of indexes asks of the place where they lie: a folder (`lance`) or a server (`postgres`)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from .bm25 import Bm25, TermIds
from .documents import Chunk, Passage
from .filters import MetadataRows
from .snapshot import Snapshot

__all__ = [
    "FORMAT",
    "Header",
    "IngestReport",
    "Read",
    "Rows",
    "Table",
    "Tables",
    "Writing",
    "check_name",
    "load",
    "metadata_text",
]

FORMAT = "1"
"""Of what is stored; whoever finds another one leaves it alone."""

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TIDY_EVERY = 32  # versions; in a folder each has a file of rows, of which a load opens all

Read = TypeVar("Read")


@dataclass(frozen=True, slots=True)
class Header:
    """What an index says of itself."""

    identity: str
    """Differs for every index ever made, so that a new one of an old name is not taken for the old one."""
    embedder: str
    dimension: int

    @classmethod
    def new(cls, embedder: str, dimension: int) -> Header:
        """The header of an index that is about to be made."""
        return cls(uuid4().hex, embedder, dimension)


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What one upsert did."""

    passages_added: int
    """Passages whose id is new."""
    passages_replaced: int
    """Old passages of the same documents that were overwritten or, having no successor, removed."""
    version: int
    """The version of the index after it."""

    @property
    def untidy(self) -> bool:
        """Whether so many changes have come that it is time for `IndexStore.tidy`."""
        return self.version % _TIDY_EVERY == 0


class Rows(NamedTuple):
    """The passages of an index, sorted by id."""

    ids: Sequence[str]
    texts: Sequence[str]
    sources: Sequence[str]
    metadata: Sequence[str]  # JSON objects
    vectors: NDArray[np.float32]  # [passages, dimension]


class Table(Protocol):
    """An index at one version."""

    @property
    def header(self) -> Header:
        """What it says of itself."""

    @property
    def version(self) -> int:
        """Grows with every change."""

    def count(self) -> int:
        """How many passages it has."""

    def chunks(self, documents: Iterable[str]) -> dict[str, set[Chunk]]:
        """The chunks of those documents that it holds."""

    def rows(self) -> Rows:
        """All its passages."""


class Writing(Protocol):
    """An index while nobody else writes it."""

    @property
    def header(self) -> Header | None:
        """What it says of itself; None: it does not exist."""

    def put(
        self, of: Header, chunks: Sequence[Chunk], vectors: NDArray[np.float32], partial: Mapping[str, int]
    ) -> IngestReport:
        """One commit: the chunks in place of all of their documents that no other upsert stores.

        Makes the index, with the header `of`, if it does not exist. Raises UnwritableError.
        """

    def tidy(self) -> tuple[int, int]:
        """Lay out anew what is there; the versions before and after, of the same passages.

        Raises UnwritableError.
        """


class Tables(Protocol):
    """Where indexes lie. Safe for many threads, and for many processes that share the place."""

    @property
    def kind(self) -> str:
        """What keeps them."""

    @property
    def shared(self) -> bool:
        """Whether other workers of a server are to change them, too."""

    def prepare(self) -> None:
        """Make sure that indexes can be written. Raises UnwritableError and IndexServerError."""

    def names(self) -> list[str]:
        """The existing indexes, sorted."""

    def exists(self, name: str) -> bool:
        """Whether there is an index `name`."""

    def read(self, name: str, read: Callable[[Table], Read]) -> Read:
        """What `read` makes of index `name` at its newest version.

        Raises UnknownIndexError, and CorruptIndexError if it or `read` cannot read what is stored.
        """

    def writing(self, name: str) -> AbstractContextManager[Writing]:
        """Hold index `name` against every other writer, of this process or another.

        Raises IndexBusyError and UnwritableError.
        """

    def drop(self, name: str) -> bool:
        """Remove index `name`; False if it does not exist. Raises as `writing`."""

    def close(self) -> None:
        """Let go of the place."""

    def remedy(self, name: str) -> str:
        """What to do with an index that is of no use as it is."""


def check_name(name: str) -> None:
    """`ValueError` unless `name` can name an index."""
    if not _NAME.fullmatch(name) or not name.strip("."):
        raise ValueError(
            f"index name {name!r} is not valid: 1 to 64 of the characters A-Z a-z 0-9 . _ -, not dots alone"
        )


def metadata_text(chunk: Chunk) -> str:
    """The metadata of a chunk as `Rows.metadata` has them."""
    return json.dumps(dict(chunk.metadata), ensure_ascii=False, allow_nan=False)


def load(key: tuple[str, int], rows: Rows, known: TermIds | None) -> Snapshot:
    """The rows as a snapshot; texts that `known` holds are not analyzed again."""
    passages = [
        Passage(id, text, 0.0, source, json.loads(extra))
        for id, text, source, extra in zip(rows.ids, rows.texts, rows.sources, rows.metadata, strict=True)
    ]
    terms = TermIds.of(rows.texts, known)
    places = {id: row for row, id in enumerate(rows.ids)}
    fields = MetadataRows.build(passage.metadata for passage in passages)
    return Snapshot(key, passages, rows.vectors, terms, Bm25.build(rows.texts, terms), places, fields)
