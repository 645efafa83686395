"""How an index lies on disk: a LanceDB table whose schema carries what weft must know of it."""

from __future__ import annotations

import importlib
import json
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from .bm25 import Bm25, TermIds
from .documents import Chunk, Passage
from .errors import CorruptIndexError
from .filters import MetadataRows
from .folder import INDEXES
from .snapshot import Snapshot

__all__ = [
    "Header",
    "check_name",
    "connect",
    "drop_and_ingest",
    "header",
    "load",
    "quiet",
    "quoted",
    "rows",
    "schema",
    "stored_chunks",
]

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_FORMAT = "1"
_CACHE_BYTES = 32 * 2**20  # of the library, each


@dataclass(frozen=True, slots=True)
class Header:
    """What the schema's metadata says of an index."""

    identity: str
    """Differs for every index ever made, so that a new one of an old name is not taken for the old one."""
    embedder: str
    dimension: int

    @classmethod
    def new(cls, embedder: str, dimension: int) -> Header:
        """The header of an index that is about to be made."""
        return cls(uuid4().hex, embedder, dimension)


def check_name(name: str) -> None:
    """`ValueError` unless `name` can name an index."""
    if not _NAME.fullmatch(name) or not name.strip("."):
        raise ValueError(
            f"index name {name!r} is not valid: 1 to 64 of the characters A-Z a-z 0-9 . _ -, not dots alone"
        )


def drop_and_ingest(name: str) -> str:
    """The remedy for an index that is of no use as it is."""
    return f"remove its folder {INDEXES}/{name}.lance in the data folder, and ingest its documents again"


def connect(path: Path) -> Any:
    """The LanceDB connection to `path`; imports the library, which takes a second or two the first time."""
    with quiet():
        lancedb: Any = importlib.import_module("lancedb")
        # By default it keeps up to 7 GB, most of it of versions that nobody reads any more.
        session = lancedb.Session(index_cache_size_bytes=_CACHE_BYTES, metadata_cache_size_bytes=_CACHE_BYTES)
        return lancedb.connect(path, session=session)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep LanceDB's notes on its own deprecated parts from callers that turn warnings into errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def schema(of: Header) -> Any:
    """The Arrow schema of an index."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("document", pa.string(), nullable=False),
            pa.field("text", pa.string(), nullable=False),
            pa.field("source", pa.string(), nullable=False),
            pa.field("position", pa.int32(), nullable=False),
            pa.field("metadata", pa.string(), nullable=False),  # a JSON object
            pa.field("vector", pa.list_(pa.float32(), of.dimension), nullable=False),
        ],
        metadata={
            "weft.format": _FORMAT,
            "weft.identity": of.identity,
            "weft.embedder": of.embedder,
            "weft.dimension": str(of.dimension),
        },
    )


def header(name: str, table: Any) -> Header:
    """What the table of index `name` says of itself; `CorruptIndexError` if weft did not write it."""
    found = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    if found.get("weft.format") != _FORMAT:
        raise CorruptIndexError(
            f"index {name!r} was not written by this version of weft "
            f"(format {found.get('weft.format')!r}, not {_FORMAT!r}); {drop_and_ingest(name)}"
        )
    return Header(found["weft.identity"], found["weft.embedder"], int(found["weft.dimension"]))


def rows(chunks: Sequence[Chunk], vectors: NDArray[np.float32], of: Header) -> Any:
    """The Arrow table of `chunks` with `vectors` `[chunks, dimension]`."""
    import pyarrow as pa

    fields = schema(of)
    columns = [
        [chunk.id for chunk in chunks],
        [chunk.document for chunk in chunks],
        [chunk.text for chunk in chunks],
        [chunk.source for chunk in chunks],
        [chunk.position for chunk in chunks],
        [json.dumps(dict(chunk.metadata), ensure_ascii=False, allow_nan=False) for chunk in chunks],
    ]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, fields, strict=False)]
    arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), of.dimension))
    return pa.table(arrays, schema=fields)


def quoted(text: str) -> str:
    """A text as a literal of LanceDB's filters."""
    return "'" + text.replace("'", "''") + "'"


def stored_chunks(table: Any, documents: Iterable[str]) -> dict[str, set[Chunk]]:
    """The chunks of those documents that `table` holds."""
    columns = ["id", "document", "text", "source", "position", "metadata"]
    names = ", ".join(map(quoted, documents))
    found = table.search().where(f"document IN ({names})").select(columns).limit(None).to_list()
    stored: dict[str, set[Chunk]] = {}
    for row in found:
        row["metadata"] = json.loads(row["metadata"])
        stored.setdefault(row["document"], set()).add(Chunk(**row))
    return stored


def load(key: tuple[str, int], table: Any, dimension: int, known: TermIds | None) -> Snapshot:
    """The rows of `table` as a snapshot; texts that `known` holds are not analyzed again."""
    columns = table.to_arrow().sort_by("id")
    ids, texts, sources, metadata = (columns[c].to_pylist() for c in ("id", "text", "source", "metadata"))
    vectors = columns["vector"].combine_chunks().flatten().to_numpy().reshape(-1, dimension)
    passages = [
        Passage(id, text, 0.0, source, json.loads(extra))
        for id, text, source, extra in zip(ids, texts, sources, metadata, strict=True)
    ]
    terms = TermIds.of(texts, known)
    places = {id: row for row, id in enumerate(ids)}
    fields = MetadataRows.build(passage.metadata for passage in passages)
    return Snapshot(key, passages, vectors, terms, Bm25.build(texts, terms), places, fields)
