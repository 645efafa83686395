"""What gRPC reads when it is imported, which this module must not do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["importing_grpc", "prepare_process"]

_EXPERIMENTS: Final = "GRPC_EXPERIMENTS"

_VARIABLES: Final = {
    "GRPC_VERBOSITY": "NONE",  # its errors come back as exceptions
    _EXPERIMENTS: "-event_engine_client,-event_engine_listener",
}
"""gRPC's "event engine" hands what arrives from thread to thread before Python's own thread for gRPC hears of
it. Without, that thread waits for the sockets itself: a message wakes half as many threads.
"""


def prepare_process() -> None:
    """Set the variables, where the environment says nothing else."""
    for name, value in _VARIABLES.items():
        os.environ.setdefault(name, value)


@contextmanager
def importing_grpc() -> Iterator[None]:
    """Do without the event engine in a process that is not ours, too; what it starts does not inherit that.

    If gRPC has been imported before, it stays as it is.
    """
    given = _EXPERIMENTS in os.environ
    os.environ.setdefault(_EXPERIMENTS, _VARIABLES[_EXPERIMENTS])
    try:
        yield
    finally:
        if not given:
            del os.environ[_EXPERIMENTS]
