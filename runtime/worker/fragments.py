"""Fragments as tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from weft.graph.codec import decode_datum, decode_node
from weft.graph.errors import GraphError
from weft.graph.ir import Value
from weft.graph.ops.primitive import Decode, Prefill, Score
from weft.graph.values import Datum
from weft.proto import value_pb2, worker_pb2

from .engines.base import Task

__all__ = ["decode_tasks", "decode_values", "fuse"]


def decode_tasks(fragment: worker_pb2.Fragment) -> tuple[Task, ...]:
    """The tasks of a fragment. Raises GraphError for a malformed node."""
    tasks = [
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
    ]
    return fuse(tasks)


def decode_values(values: Mapping[str, value_pb2.Datum]) -> dict[str, Datum]:
    """The values of a fragment or a push, by key. Raises GraphError that names the key of a malformed one."""
    decoded: dict[str, Datum] = {}
    for key, message in values.items():
        try:
            decoded[key] = decode_datum(message)
        except GraphError as problem:
            raise GraphError(f"value {key}: {problem}") from None
    return decoded


def fuse(tasks: Sequence[Task]) -> tuple[Task, ...]:
    """Mark the prefills that need no request of their own.

    That is where the one task of the fragment that takes the longer context decodes or scores from it: its
    request computes what the prefill would have computed.
    """
    return tuple(replace(task, fused=_is_fused(task, tasks)) for task in tasks)


def _is_fused(task: Task, tasks: Sequence[Task]) -> bool:
    if not isinstance(task.node.op, Prefill):
        return False
    kv = Value(task.node.id)
    takers = [other.node.op for other in tasks if kv in other.node.args.values()]
    return len(takers) == 1 and isinstance(takers[0], Decode | Score)
