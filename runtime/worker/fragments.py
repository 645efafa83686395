"""Fragments as tasks."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from google.protobuf.message import DecodeError

from weft.graph.codec import decode_datum, decode_node
from weft.graph.errors import GraphError
from weft.graph.ir import Node
from weft.graph.values import Datum
from weft.proto import graph_pb2, value_pb2, worker_pb2

from .engines.base import KvSource, Stream, Task

__all__ = ["decode_tasks", "decode_values"]

_REMEMBERED: Final = 4096  # nodes
_SMALL: Final = 4096  # bytes of a node; larger ones are rare
_STREAMS: Final[Mapping[int, Stream]] = {stream.value: stream for stream in Stream}


def decode_tasks(fragment: worker_pb2.Fragment) -> list[Task]:
    """The tasks of a fragment. Raises GraphError for a malformed one."""
    run, namespace, priority = fragment.run, fragment.namespace, fragment.priority
    since = time.monotonic() - fragment.head_start_s
    return [
        Task(
            run=run,
            node=_node(task.node),
            attempt=task.attempt,
            stream=_stream(task.stream),
            internal=task.internal,
            timeout_s=task.timeout_s or None,
            namespace=namespace,
            priority=priority,
            since=since,
            source=KvSource(task.source.address, task.source.wait_s) if task.HasField("source") else None,
        )
        for task in fragment.tasks
    ]


def decode_values(values: Mapping[str, value_pb2.Datum]) -> dict[str, Datum]:
    """The values of a fragment or a push, by key. Raises GraphError that names the key of a malformed one."""
    decoded: dict[str, Datum] = {}
    for key, message in values.items():
        try:
            decoded[key] = decode_datum(message)
        except GraphError as problem:
            raise GraphError(f"value {key}: {problem}") from None
    return decoded


def _stream(value: int) -> Stream:
    try:
        return _STREAMS[value]
    except KeyError:
        raise GraphError(f"the task wants stream {value}, which this version does not know") from None


def _node(data: bytes) -> Node:
    return _small_node(data) if len(data) <= _SMALL else _decoded(data)


def _decoded(data: bytes) -> Node:
    try:
        return decode_node(graph_pb2.Node.FromString(data))
    except DecodeError as problem:
        raise GraphError(f"the node cannot be read: {problem}") from None


_small_node = lru_cache(_REMEMBERED)(_decoded)
"""The programs of a server send the same nodes again with every run."""
