"""Failures of tasks, as they travel to the user."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from weft.graph.codec import sendable
from weft.graph.errors import GraphError
from weft.graph.ir import Node
from weft.proto import value_pb2
from weft.runtime.llm.errors import EngineClosedError, ParallelError, RequestError
from weft.runtime.retrieval.errors import (
    IndexBusyError,
    IndexMismatchError,
    IndexServerError,
    RetrievalError,
    UnknownIndexError,
)
from weft.runtime.scheduler.faults import Code

__all__ = ["TaskError", "fault_of", "invalid_arguments"]

_log = logging.getLogger(__name__)


class TaskError(Exception):
    """A task failed for a reason that an engine knows. `retryable`: the same task may succeed later.

    `node`, `location` and `worker` say where, if it was not in the task's own node on this worker.
    """

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        retryable: bool = False,
        node: str = "",
        location: str = "",
        worker: str = "",
    ) -> None:
        super().__init__(message)
        self.code: Code = code
        self.retryable = retryable
        self.node = node
        self.location = location
        self.worker = worker


_CODES: Final[tuple[tuple[type[Exception], Code, bool], ...]] = (
    (UnknownIndexError, "not_found", False),
    (IndexMismatchError, "invalid", False),
    (IndexBusyError, "internal", True),
    (IndexServerError, "internal", True),
    (RetrievalError, "internal", False),
    (RequestError, "invalid", False),
    (EngineClosedError, "internal", True),
    (ParallelError, "internal", True),
    (GraphError, "invalid", False),
)
"""Error, code, and whether the same task may succeed later; the first entry that fits holds."""


def fault_of(error: Exception, node: Node, worker: str) -> value_pb2.Fault:
    """The failure of `node` on `worker` as a message; what no engine foresaw is logged with its traceback."""
    code, retryable = _classify(error)
    message = str(error)
    if code is None:
        _log.error("%s failed", node.where(), exc_info=error)
        code, message = "internal", f"{type(error).__name__}: {error}"
    fault = value_pb2.Fault(
        code=code,
        message=sendable(message),
        node=node.label(),
        location=node.location,
        worker=worker,
        retryable=retryable,
    )
    if isinstance(error, TaskError):
        elsewhere = value_pb2.Fault(node=error.node, location=error.location, worker=error.worker)
        fault.MergeFrom(elsewhere)
    return fault


def _classify(error: Exception) -> tuple[Code | None, bool]:
    if isinstance(error, TaskError):
        return error.code, error.retryable
    for kind, code, retryable in _CODES:
        if isinstance(error, kind):
            return code, retryable
    return None, False


@contextmanager
def invalid_arguments() -> Iterator[None]:
    """Turn a ValueError, by which libraries refuse what they are given, into a fault `invalid`."""
    try:
        yield
    except ValueError as problem:
        raise TaskError("invalid", str(problem)) from problem
