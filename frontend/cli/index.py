"""`weft index`: documents from a folder into an index."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from weft.graph.codec import encode_graph
from weft.graph.ir import Graph, Node, Value
from weft.graph.ops.common import Input
from weft.graph.ops.user import Ingest
from weft.graph.types import JSON, list_type
from weft.proto import orchestrator_pb2 as pb
from weft.runtime.retrieval.documents import Document
from weft.runtime.retrieval.folders import read_folder

from .output import ERRORS, OUTPUT, print_json
from .server import ConfigOption, JsonOption, ServerOption, client_for
from .submit import invoke

__all__ = ["batches", "command", "ingest_graph"]

_BATCH_DOCUMENTS: Final = 16
_BATCH_BYTES: Final = 1 << 20


@dataclass
class _Total:
    """What the reports of all batches say together."""

    documents: int = 0
    passages_added: int = 0
    passages_replaced: int = 0

    def add(self, documents: int, report: dict[str, Any]) -> None:
        self.documents += documents
        self.passages_added += report["passages_added"]
        self.passages_replaced += report["passages_replaced"]


def command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The index; it is made if it is not there.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Its .md and .txt files are read.")],
    server: ServerOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Put the text files of a folder into an index; what is there already is replaced."""
    documents = read_folder(folder)
    client = client_for(server, config)
    graph = encode_graph(ingest_graph(name))
    total = _Total()
    with _progress() as progress:
        bar = progress.add_task(f"indexing {folder}", total=len(documents))
        for batch in batches(documents):
            inputs = {"documents": json.dumps([_plain(document) for document in batch])}
            _, report = invoke(client, pb.SubmitRequest(graph=graph, inputs=inputs))
            total.add(len(batch), report)
            progress.advance(bar, len(batch))
    if as_json:
        print_json({"index": name, **vars(total)})
    else:
        added = f"{total.passages_added} passages added, {total.passages_replaced} replaced"
        OUTPUT.out(f"index {name!r}: {total.documents} documents, {added}")


def ingest_graph(index: str) -> Graph:
    """The graph that puts its input `documents` into an index and returns a report."""
    nodes = (
        Node(0, Input("documents", list_type(JSON))),
        Node(1, Ingest(index), {"documents": Value(0)}),
    )
    return Graph(nodes, (Value(1),), name=f"index {index}")


def batches(documents: Sequence[Document]) -> Iterator[list[Document]]:
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
