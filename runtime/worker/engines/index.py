"""The engine of indexes: chunk, upsert and search."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from weft.graph.ops.base import EngineKind
from weft.graph.ops.common import Neighbours, Search, SearchMode
from weft.graph.ops.primitive import Chunk, Upsert
from weft.graph.values import EFFECT, Datum, Json
from weft.proto import worker_pb2
from weft.runtime.results import ResultCache
from weft.runtime.retrieval.chunking import chunk
from weft.runtime.retrieval.documents import Passage
from weft.runtime.retrieval.errors import CorruptIndexError, RetrievalError, UnknownIndexError
from weft.runtime.retrieval.filters import Where
from weft.runtime.retrieval.index import IndexStore, IngestReport
from weft.runtime.retrieval.rerank import merge_queries
from weft.runtime.retrieval.tables import Tables
from weft.runtime.retrieval.version import IndexVersion

from ..batcher import Batcher
from ..faults import TaskError, invalid_arguments
from ..processor import processor
from .base import Emit, Gauges, Operands, Outcome, StartError, Task
from .operands import chunks_of, condition_of, count_of, documents_of, passages_of, texts_of, vectors_of

__all__ = ["IndexEngine"]

_log = logging.getLogger(__name__)

_BATCH = 64  # searches in one call
_KEY_BYTES = 16
_LOOK_S = 5.0  # between two looks at what others have made of shared indexes
_PASSAGE_BYTES = 1024  # of a passage besides its text, generously

Results = tuple[Datum, ...]


class _Found(NamedTuple):
    """The results of one search primitive, and whether an equal search before gave them."""

    results: Results
    reused: bool


class _Query(NamedTuple):
    """One search primitive: passages for each of its queries."""

    tenant: str
    target: str  # the index
    mode: SearchMode
    queries: tuple[str, ...]
    vectors: NDArray[np.float32] | None  # [queries, dimension]
    k: int
    where: Where

    @property
    def group(self) -> tuple[object, ...]:
        """Searches of one group go into one call."""
        width = None if self.vectors is None else self.vectors.shape[1]
        return self.target, self.mode, self.where, width

    def key(self, version: tuple[str, int]) -> bytes:
        """All that its results depend on, at one version of the index."""
        stated = repr((version, self.mode, self.k, self.where, self.queries)).encode()
        vectors = b"" if self.vectors is None else np.ascontiguousarray(self.vectors).tobytes()
        return blake2b(stated + vectors, digest_size=_KEY_BYTES).digest()


class IndexEngine:
    """The indexes in one place.

    Searches that are queued together are one call for each index; writers take turns, and so does tidying up
    after them, for which nobody waits. A search that equals an earlier one takes its results, unless the
    index has changed since.
    """

    kind: EngineKind = "index"
    model = ""

    def __init__(self, tables: Tables, embedder: str, *, cache_bytes: int = 0) -> None:
        """`tables`: where the indexes lie.

        `embedder`: the name of the vector space that stored vectors belong to.

        `cache_bytes`: the room for results that are kept for equal searches.
        """
        self._results: ResultCache[Results] = ResultCache(cache_bytes)
        self._store = IndexStore(tables)
        self._embedder = embedder
        self._indexes: tuple[worker_pb2.IndexInfo, ...] = ()
        self._untidy: set[str] = set()  # indexes
        self._tidying: set[asyncio.Task[None]] = set()
        self._looking: asyncio.Task[None] | None = None
        self._unreadable: frozenset[str] = frozenset()  # what has been said of indexes
        self._searches: Batcher[_Query, _Found] = Batcher(self._search, limit=_BATCH, name="search")
        self._lookups: Batcher[Callable[[], Results], Results] = Batcher(_call, limit=1, name="neighbours")
        self._writes: Batcher[Callable[[], Results], Results] = Batcher(_call, limit=1, name="ingest")

    def info(self) -> worker_pb2.EngineInfo:
        """The indexes that exist."""
        return worker_pb2.EngineInfo(
            kind=self.kind,
            detail=self._store.kind,
            indexes=self._indexes,
            capacity=_BATCH,
            processor=processor(),
        )

    def gauges(self) -> Gauges:
        """The indexes that exist, as of the last change made here or the last look."""
        return Gauges(indexes=self._indexes)

    async def start(self) -> None:
        """Look what indexes there are. Raises StartError."""
        try:
            self._indexes = await asyncio.to_thread(self._describe)
        except RetrievalError as problem:
            raise StartError(str(problem)) from problem
        self._searches.start()
        self._lookups.start()
        self._writes.start()
        if self._store.shared:
            self._looking = asyncio.create_task(self._look(), name="look at shared indexes")

    async def stop(self) -> None:
        """Cancel what is queued."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
        await self._searches.stop()
        await self._lookups.stop()
        await self._writes.stop()
        self._store.close()

    async def execute(self, task: Task, operands: Operands, emit: Emit) -> Outcome:
        """Compute a chunk, an upsert, a search or a look-up of neighbours."""
        match task.node.op:
            case Chunk() as cut:
                batched = await self._writes.submit(lambda: self._chunk(cut, operands))
            case Neighbours() as around:
                batched = await self._lookups.submit(lambda: self._neighbours(around, operands))
            case Upsert() as upsert:
                batched = await self._writes.submit(lambda: self._upsert(upsert, operands))
                self._tidy_soon()
            case Search() as op:
                (results, reused), timing = await self._searches.submit(_query(op, task.namespace, operands))
                return Outcome(results, timing._replace(reused=reused))
            case other:
                raise TaskError("invalid", f"an index engine does not run {other.label()!r}")
        return Outcome(batched.result, batched.timing)

    def _search(self, items: Sequence[_Query]) -> list[_Found]:
        groups: dict[tuple[object, ...], list[int]] = {}
        for place, item in enumerate(items):
            groups.setdefault(item.group, []).append(place)
        found: dict[int, _Found] = {}
        for places in groups.values():
            found.update(zip(places, self._search_group([items[place] for place in places]), strict=True))
        return [found[place] for place in range(len(items))]

    def _search_group(self, items: Sequence[_Query]) -> list[_Found]:
        with invalid_arguments():
            index = self._store.newest(items[0].target)
        keys = [item.key(index.key) for item in items]
        known = [self._results.get(item.tenant, key) for item, key in zip(items, keys, strict=True)]
        fresh = [item for item, results in zip(items, known, strict=True) if results is None]
        computed = iter(_search_in(index, fresh) if fresh else ())
        found: list[_Found] = []
        for item, key, results in zip(items, keys, known, strict=True):
            if results is not None:
                found.append(_Found(results, reused=True))
                continue
            results, size = next(computed)
            self._results.put(item.tenant, key, results, size)
            found.append(_Found(results, reused=False))
        return found

    def _neighbours(self, op: Neighbours, operands: Operands) -> Results:
        passages = passages_of(operands["passages"])
        with invalid_arguments():
            found = self._store.neighbours(op.index, passages, op.preceding, op.following)
        return (Json([passage.to_json() for passage in found]),)

    def _chunk(self, op: Chunk, operands: Operands) -> Results:
        documents = documents_of(operands["documents"])
        with invalid_arguments():
            chunks = [part for document in documents for part in chunk(document, op.chunking)]
            changed = self._store.changed(op.index, chunks, self._embedder)
        return Json([part.to_json() for part in changed]), Json([part.text for part in changed])

    def _upsert(self, op: Upsert, operands: Operands) -> Results:
        chunks, vectors = chunks_of(operands["chunks"]), vectors_of(operands["vectors"])
        if not chunks:  # the index holds all of them as they are
            return Json(asdict(IngestReport(0, 0, self._store.describe(op.index).version))), EFFECT
        with invalid_arguments():
            partial = {part.document: part.passages for part in op.partial}
            report = self._store.upsert(op.index, chunks, vectors, self._embedder, partial)
        self._indexes = self._describe()
        if report.untidy:
            self._untidy.add(op.index)
        return Json(asdict(report)), EFFECT

    def _tidy_soon(self) -> None:
        """Queue the tidying of indexes that are due, behind the writes that wait already."""
        while self._untidy:
            task = asyncio.create_task(self._tidy(self._untidy.pop()))
            self._tidying.add(task)
            task.add_done_callback(self._tidying.discard)

    async def _tidy(self, name: str) -> None:
        def tidied() -> Results:
            self._store.tidy(name)
            return ()

        try:
            await self._writes.submit(tidied)
        except RetrievalError as problem:
            _log.warning("index %r was not tidied up: %s", name, problem)

    async def _look(self) -> None:
        """Take note of what others have made, also in case they leave."""
        while True:
            await asyncio.sleep(_LOOK_S)
            with suppress(RetrievalError):  # who uses the indexes is told; what is known stays
                self._indexes = await asyncio.to_thread(self._describe)

    def _describe(self) -> tuple[worker_pb2.IndexInfo, ...]:
        found: list[worker_pb2.IndexInfo] = []
        unreadable: set[str] = set()
        for name in self._store.names():
            try:
                index = self._store.describe(name)
            except UnknownIndexError:
                continue  # it has just been dropped
            except CorruptIndexError as told:
                unreadable.add(str(told))
                continue
            found.append(
                worker_pb2.IndexInfo(
                    name=name, passages=index.passages, embedder=index.embedder, version=index.version
                )
            )
        for problem in sorted(unreadable - self._unreadable):
            _log.warning("%s", problem)
        self._unreadable = frozenset(unreadable)
        return tuple(found)


def _query(op: Search, tenant: str, operands: Operands) -> _Query:
    queries, k = texts_of(operands["query"]), count_of(operands, "k")
    vectors = vectors_of(operands["vectors"]) if "vectors" in operands else None
    if vectors is not None and len(vectors) != len(queries):
        raise TaskError("invalid", f"{len(queries)} queries came with {len(vectors)} vectors")
    return _Query(tenant, op.index, op.mode, queries, vectors, k, condition_of(operands))


def _search_in(index: IndexVersion, items: Sequence[_Query]) -> list[tuple[Results, int]]:
    """The passages that each of the items finds, and about how many bytes they take."""
    queries = [query for item in items for query in item.queries]
    ks = [item.k for item in items for _ in item.queries]
    known = [item.vectors for item in items if item.vectors is not None]
    vectors = np.concatenate(known) if known else None
    with invalid_arguments():
        passages = iter(index.search(queries, vectors, ks, items[0].mode, items[0].where))
    return [_merged([next(passages) for _ in item.queries]) for item in items]


def _merged(results: Sequence[Sequence[Passage]]) -> tuple[Results, int]:
    passages = merge_queries(results)
    size = sum(_PASSAGE_BYTES + sys.getsizeof(passage.text) for passage in passages)
    return (Json([passage.to_json() for passage in passages]),), size


def _call(items: Sequence[Callable[[], Results]]) -> list[Results]:
    return [item() for item in items]
