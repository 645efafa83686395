"""`weft index`: the files of a folder into an index."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from weft.frontend.client import Client
from weft.frontend.errors import TooLarge
from weft.graph.codec import encode_graph
from weft.graph.ir import Graph, Node, Value
from weft.graph.ops.common import Input
from weft.graph.ops.user import Chunking, Ingest
from weft.graph.types import JSON, list_type
from weft.proto import orchestrator_pb2 as pb
from weft.runtime.retrieval.chunking import chunk
from weft.runtime.retrieval.documents import Document
from weft.runtime.retrieval.errors import CorpusError
from weft.runtime.retrieval.folders import files_of, read_file

from .output import ERRORS, OUTPUT, print_json
from .server import ConfigOption, JsonOption, ServerOption, client_for
from .submit import invoke

__all__ = ["batches", "command", "ingest_graph"]

_BATCH_DOCUMENTS: Final = 16
_BATCH_BYTES: Final = 1 << 20


@dataclass
class _Report:
    """What has been done."""

    documents: int = 0
    passages_added: int = 0
    passages_replaced: int = 0
    skipped: dict[str, str] = field(default_factory=dict)  # the file, and what is wrong with it

    def add(self, documents: int, report: dict[str, Any]) -> None:
        self.documents += documents
        self.passages_added += report["passages_added"]
        self.passages_replaced += report["passages_replaced"]


def command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The index; it is made if it is not there.")],
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Its .md, .txt, .html and .pdf files are read.")
    ],
    titles: Annotated[
        bool, typer.Option("--titles", help="Let each passage begin with the headings above it.")
    ] = False,
    server: ServerOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Put the files of a folder into an index. Files that have not changed since cost nothing.

    A file or a folder that cannot be read is named and skipped.
    """
    filler = _Filler(client_for(server, config), name, Chunking(titles=titles))
    files = files_of(folder, filler.skip)
    with _progress() as progress:
        bar = progress.add_task(f"indexing {folder}", total=len(files))
        for batch in batches(filler.read(files.items(), lambda: progress.advance(bar))):
            filler.ingest(batch)
            progress.advance(bar, len(batch))
    filler.tell(as_json)


class _Filler:
    """Fills one index."""

    def __init__(self, client: Client, index: str, chunking: Chunking) -> None:
        self._client = client
        self._index = index
        self._chunking = chunking
        self._graph = encode_graph(ingest_graph(index, chunking))
        self._done = _Report()

    def read(self, files: Iterable[tuple[str, Path]], passed: Callable[[], object]) -> Iterator[Document]:
        """The documents that can be read; `passed` is called for each of the others."""
        for name, file in files:
            try:
                document = read_file(name, file)
                if not chunk(document, self._chunking):
                    raise CorpusError(f"file {name!r} holds no text")
            except CorpusError as problem:
                self.skip(name, problem)
                passed()
            else:
                yield document

    def ingest(self, batch: list[Document]) -> None:
        """Put documents into the index. What is too large for a message is skipped."""
        try:
            self._put(batch)
        except TooLarge as problem:
            if len(batch) == 1:
                self.skip(batch[0].id, CorpusError(f"file {batch[0].id!r} is too large: {problem.message}"))
            else:
                for document in batch:
                    self.ingest([document])

    def skip(self, name: str, problem: CorpusError) -> None:
        """Name what cannot be read."""
        self._done.skipped[name.encode(errors="backslashreplace").decode()] = str(problem)
        ERRORS.print(f"skipped: {problem}", markup=False)

    def tell(self, as_json: bool) -> None:
        """Write what has been done."""
        done = self._done
        if as_json:
            print_json({"index": self._index, **vars(done)})
            return
        added = f"{done.passages_added} passages added, {done.passages_replaced} replaced"
        skipped = f", {len(done.skipped)} skipped" if done.skipped else ""
        OUTPUT.out(f"index {self._index!r}: {done.documents} documents, {added}{skipped}")

    def _put(self, batch: list[Document]) -> None:
        inputs = {"documents": json.dumps([_plain(document) for document in batch])}
        _, report = invoke(self._client, pb.SubmitRequest(graph=self._graph, inputs=inputs))
        self._done.add(len(batch), report)


def ingest_graph(index: str, chunking: Chunking) -> Graph:
    """The graph that puts its input `documents` into an index and returns a report."""
    nodes = (
        Node(0, Input("documents", list_type(JSON))),
        Node(1, Ingest(index, chunking), {"documents": Value(0)}),
    )
    return Graph(nodes, (Value(1),), name=f"index {index}")


def batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Consecutive documents, at most 16 and at most about 1 MiB at a time, but always one."""
    batch: list[Document] = []
    size = 0
    for document in documents:
        length = len(document.text.encode())
        if batch and (len(batch) == _BATCH_DOCUMENTS or size + length > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(document)
        size += length
    if batch:
        yield batch


def _plain(document: Document) -> dict[str, Any]:
    return {"id": document.id, "text": document.text, "source": document.source}


def _progress() -> Progress:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), console=ERRORS)
