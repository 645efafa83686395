"""What goes wrong, as OpenAI's clients expect to read it."""

from __future__ import annotations

from typing import Any, Final, Self

import grpc

from weft.proto import value_pb2
from weft.runtime.orchestrator.door import DoorError

__all__ = ["ApiError"]

_STATUS_OF_DOOR: Final = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.UNAVAILABLE: 503,
}
_STATUS_OF_FAULT: Final = {
    "invalid": 400,
    "not_found": 404,
    "too_large": 400,
    "timeout": 504,
    "cancelled": 503,
    "unavailable": 503,
    "worker_lost": 503,
}
"""The others are the server's own: 500."""
_TYPES: Final = {401: "authentication_error", 404: "not_found_error"}


class ApiError(Exception):
    """A request that is refused or has failed.

    `status`: of HTTP. `param`: the parameter at fault, if it is one. `code`: for programs to read.
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.place: dict[str, str] = {}
        """Where in a program it went wrong."""

    @classmethod
    def refused(cls, problem: DoorError) -> Self:
        """What the orchestrator says before a run starts."""
        return cls(_STATUS_OF_DOOR.get(problem.status, 500), str(problem))

    @classmethod
    def failed(cls, fault: value_pb2.Fault) -> Self:
        """How a run ended."""
        code = "context_length_exceeded" if fault.code == "too_large" else fault.code
        error = cls(_STATUS_OF_FAULT.get(fault.code, 500), fault.message, code=code)
        fields = ("program", "node", "location", "worker")
        error.place = {field: getattr(fault, field) for field in fields if getattr(fault, field)}
        return error

    @property
    def body(self) -> dict[str, Any]:
        """The error object."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {
            "error": {
                "message": str(self),
                "type": kind,
                "param": self.param,
                "code": self.code,
                **self.place,
            }
        }
