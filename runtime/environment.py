"""What gRPC reads when it is imported, which this module must not do."""

from __future__ import annotations

import os
from typing import Final

__all__ = ["prepare_process"]

_VARIABLES: Final = {
    "GRPC_VERBOSITY": "NONE",  # its errors come back as exceptions
    "GRPC_EXPERIMENTS": "-event_engine_client,-event_engine_listener",
}
"""gRPC's "event engine" hands what arrives from thread to thread before Python's own thread for gRPC hears of
it. Without, that thread waits for the sockets itself: a message wakes half as many threads.
"""


def prepare_process() -> None:
    """Set the variables, where the environment says nothing else."""
    for name, value in _VARIABLES.items():
        os.environ.setdefault(name, value)
