"""Faults as they travel, and exceptions as they are raised."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import grpc
from grpc import aio

from weft.frontend.errors import (
    NotFound,
    ProgramError,
    Rejected,
    RunCancelled,
    RunTimeout,
    TooLarge,
    ToolError,
    Unauthenticated,
    Unavailable,
    WorkerLost,
)
from weft.graph.codec import sendable
from weft.proto import value_pb2

__all__ = ["error_of", "error_of_status", "fault_of"]

_OVERSIZE: Final = re.compile(r"message larger than max \((\d+) vs\. (\d+)\)")
_BYTES_PER_MIB: Final = 2**20

_BY_CODE: Final[Mapping[str, type[ProgramError]]] = {
    "invalid": Rejected,
    "not_found": NotFound,
    "tool_failed": ToolError,
    "timeout": RunTimeout,
    "cancelled": RunCancelled,
    "worker_lost": WorkerLost,
    "too_large": TooLarge,
    "unavailable": Unavailable,
    "unauthenticated": Unauthenticated,
}

_BY_STATUS: Final[Mapping[grpc.StatusCode, str]] = {
    grpc.StatusCode.INVALID_ARGUMENT: "invalid",
    grpc.StatusCode.FAILED_PRECONDITION: "invalid",
    grpc.StatusCode.NOT_FOUND: "not_found",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "too_large",
    grpc.StatusCode.UNAVAILABLE: "unavailable",
    grpc.StatusCode.UNAUTHENTICATED: "unauthenticated",
    grpc.StatusCode.DEADLINE_EXCEEDED: "timeout",
    grpc.StatusCode.CANCELLED: "cancelled",
}


def error_of(fault: value_pb2.Fault, program: str = "") -> ProgramError:
    """The exception that says what a fault says."""
    kind = _BY_CODE.get(fault.code, ProgramError)
    return kind(
        fault.message or "the run failed",
        code=fault.code or "internal",
        program=fault.program or program,
        node=fault.node,
        location=fault.location,
        worker=fault.worker,
    )


def error_of_status(error: aio.AioRpcError | grpc.Call, address: str, program: str = "") -> ProgramError:
    """The exception for a call that the server, or the way to it, refused."""
    code = _BY_STATUS.get(error.code(), "internal")
    details = _readable(error.details() or error.code().name)
    if code == "unavailable":
        details = f"{details} (server {address})"
    elif error.code() is grpc.StatusCode.UNIMPLEMENTED:
        details = f"what answers at {address} is not a weft server of this version: {details}"
    return _BY_CODE.get(code, ProgramError)(details, code=code, program=program)


def _readable(details: str) -> str:
    """gRPC's words for a message beyond the server's limit, with what can be done; others as they are."""
    sizes = _OVERSIZE.search(details)
    if sizes is None:
        return details
    size, limit = (int(number) / _BYTES_PER_MIB for number in sizes.groups())
    return (
        f"a message of {size:.1f} MiB was sent, and the server takes {limit:g} MiB at the most: send less "
        "at a time, or raise max_message_mb in its configuration"
    )


def fault_of(error: BaseException, code: str, *, retryable: bool = False) -> value_pb2.Fault:
    """The fault that says what an exception of this process says."""
    message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return value_pb2.Fault(code=code, message=sendable(message), retryable=retryable)
