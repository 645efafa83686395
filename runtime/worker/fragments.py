"""Fragments as tasks."""

from __future__ import annotations

from collections.abc import Mapping

from weft.graph.codec import decode_datum, decode_node
from weft.graph.errors import GraphError
from weft.graph.values import Datum
from weft.proto import value_pb2, worker_pb2

from .engines.base import Task

__all__ = ["decode_tasks", "decode_values"]


def decode_tasks(fragment: worker_pb2.Fragment) -> tuple[Task, ...]:
    """The tasks of a fragment. Raises GraphError for a malformed node."""
    return tuple(
        Task(
            run=fragment.run,
            node=decode_node(task.node),
            attempt=task.attempt,
            stream=task.stream,
            timeout_s=task.timeout_s or None,
            namespace=fragment.namespace,
            priority=fragment.priority,
        )
        for task in fragment.tasks
    )


def decode_values(values: Mapping[str, value_pb2.Datum]) -> dict[str, Datum]:
    """The values of a fragment or a push, by key. Raises GraphError that names the key of a malformed one."""
    decoded: dict[str, Datum] = {}
    for key, message in values.items():
        try:
            decoded[key] = decode_datum(message)
        except GraphError as problem:
            raise GraphError(f"value {key}: {problem}") from None
    return decoded
