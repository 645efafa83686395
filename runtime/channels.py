"""How gRPC is set up inside a server: the options of channels and servers, so that they fit together.

Whoever pings must talk to a server that puts up with the pings: gRPC's servers end connections ("too many
pings") on which more than two come within five minutes, unless they are told otherwise.
"""

from __future__ import annotations

import os
from typing import Final

__all__ = ["channel_options", "prepare_process", "server_options"]

Options = tuple[tuple[str, int], ...]

_KEEPALIVE: Final[Options] = (
    ("grpc.keepalive_time_ms", 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),  # any number
)
"""Pings by which either end notices that the other's machine has vanished, or its process stands still.

gRPC's own threads answer them, whatever Python is busy with.
"""

_ANSWER: Final[Options] = (("grpc.http2.ping_timeout_ms", 5000),)
"""How long orchestrator and workers wait for each other's answers ("keepalive_timeout" changes nothing).

Servers wait for those of clients for a minute, as gRPC does: they may be far away, or suspended for a while.
"""

_ENVIRONMENT: Final = {
    "GRPC_VERBOSITY": "NONE",  # its errors come back as exceptions
    "GRPC_EXPERIMENTS": "-event_engine_client,-event_engine_listener",
}
"""What gRPC reads when it is imported.

Its "event engine" hands what arrives from thread to thread before Python's own thread for gRPC hears of it.
Without, that thread waits for the sockets itself: a message wakes half as many threads.
"""


_QUEUE: Final[Options] = (
    ("grpc.server.max_pending_requests", 2**31 - 1),
    ("grpc.server.max_pending_requests_hard_limit", 2**31 - 1),
)
"""Calls that have arrived and that Python has not looked at yet wait, however many they are.

gRPC's servers refuse some of more than a thousand, by chance, and all beyond three thousand, as "cancelled".
"""


def prepare_process() -> None:
    """Set what gRPC reads when it is imported, where the environment says nothing else."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def channel_options() -> Options:
    """Of a channel between orchestrator and worker. The receiver of a message says what is too large."""
    return (*_sizes(-1), *_KEEPALIVE, *_ANSWER)


def server_options(max_bytes: int = -1) -> Options:
    """Of an orchestrator's or a worker's server. `max_bytes`: of a message that it takes; -1: any size."""
    return (
        ("grpc.so_reuseport", 0),  # a port in use is an error
        *_sizes(max_bytes),
        ("grpc.http2.min_ping_interval_without_data_ms", 0),
        ("grpc.http2.max_ping_strikes", 0),  # never end a connection for its pings
        *_KEEPALIVE,
        *_QUEUE,
    )


def _sizes(received: int) -> Options:
    return (("grpc.max_receive_message_length", received), ("grpc.max_send_message_length", -1))
