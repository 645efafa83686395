"""Failures of runs, and as messages."""

from __future__ import annotations

import logging

from weft.graph.codec import sendable
from weft.graph.errors import EvaluationError, GraphError
from weft.proto import value_pb2
from weft.runtime.scheduler.faults import Fault

__all__ = ["decode_fault", "encode_fault", "fault_of", "past_deadline"]

_log = logging.getLogger(__name__)


def fault_of(problem: Exception, where: str) -> Fault:
    """What an exception is to the run that it happens in; of a mistake of weft's own, the log has more."""
    if isinstance(problem, EvaluationError | GraphError):
        return Fault("invalid", str(problem))
    _log.error("%s failed", where, exc_info=problem)
    return Fault("internal", f"{type(problem).__name__}: {problem}")


def past_deadline(deadline_s: float) -> Fault:
    """That a run has not ended in time."""
    return Fault("timeout", f"the run took longer than its deadline of {deadline_s:g} s")


def encode_fault(fault: Fault) -> value_pb2.Fault:
    """The fault as a message."""
    return value_pb2.Fault(
        code=fault.code,
        message=sendable(fault.message),
        program=fault.program,
        node=fault.node,
        location=fault.location,
        worker=fault.worker,
        retryable=fault.retryable,
    )


def decode_fault(message: value_pb2.Fault) -> Fault:
    """The fault that the message says; one without a code is `internal`."""
    return Fault(
        code=message.code or "internal",
        message=message.message or "failed without saying why",
        program=message.program,
        node=message.node,
        location=message.location,
        worker=message.worker,
        retryable=message.retryable,
    )
