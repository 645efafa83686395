"""What can go wrong in the LLM engine.

EngineError
 ├─ ModelError       a checkpoint cannot be loaded
 ├─ RequestError     a request can never be served; also a ValueError
 ├─ CancelledError   a request was cancelled by its owner
 ├─ ParallelError    processes that share a model have lost one another
 ├─ DeviceError      a device computes nothing any more
 └─ EngineClosedError  the engine was closed before a request ended
"""

from __future__ import annotations

__all__ = [
    "CancelledError",
    "DeviceError",
    "EngineClosedError",
    "EngineError",
    "ModelError",
    "ParallelError",
    "RequestError",
]


class EngineError(Exception):
    """Base of this module's errors."""


class ModelError(EngineError):
    """A checkpoint is missing, damaged or of a kind that weft does not run."""


class RequestError(EngineError, ValueError):
    """A request that the engine could never serve, refused when it is submitted."""


class CancelledError(EngineError):
    """The request was cancelled by its owner."""


class EngineClosedError(EngineError):
    """The engine has been closed."""


class ParallelError(EngineError):
    """A process that has a part of the model has ended or does not answer; the model cannot be used."""


class DeviceError(EngineError):
    """A device fails whatever it is given, as a GPU does after an illegal access; the process must end."""
