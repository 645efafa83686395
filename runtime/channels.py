"""How gRPC is set up: channels, and their and servers' options, so that they fit together.

Whoever pings must talk to a server that puts up with the pings: gRPC's servers end connections ("too many
pings") on which more than two come within five minutes, unless they are told otherwise.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Final

import grpc

from .access import Access
from .addresses import SCHEME, UNIX, is_local, speaks_tls

__all__ = ["Options", "blocking_channel", "channel_options", "open_channel", "open_port", "server_options"]

_log = logging.getLogger(__name__)

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

_QUEUE: Final[Options] = (
    ("grpc.server.max_pending_requests", 2**31 - 1),
    ("grpc.server.max_pending_requests_hard_limit", 2**31 - 1),
)
"""Calls that have arrived and that Python has not looked at yet wait, however many they are.

gRPC's servers refuse some of more than a thousand, by chance, and all beyond three thousand, as "cancelled".
"""


def open_channel(address: str, access: Access, options: Options | None = None) -> grpc.aio.Channel:
    """A channel of the running loop to what listens at `address`, by TLS if that says so.

    Stubs get it `keyed`. `options`: by default those between orchestrator and worker.
    """
    options = channel_options() if options is None else options
    if speaks_tls(address):
        target = address.removeprefix(SCHEME)
        return grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(access.authorities), options)
    _note_sent_in_clear(address, access)
    return grpc.aio.insecure_channel(address, options)


def blocking_channel(address: str, access: Access, options: Options = ()) -> grpc.Channel:
    """As `open_channel`, for threads."""
    if speaks_tls(address):
        target = address.removeprefix(SCHEME)
        return grpc.secure_channel(target, grpc.ssl_channel_credentials(access.authorities), options)
    _note_sent_in_clear(address, access)
    return grpc.insecure_channel(address, options)


def open_port(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None) -> str:
    """Let a server listen there, by TLS if it has credentials, but on no Unix socket; how it is called there.

    The credentials must live as long as the server. Raises RuntimeError if it cannot listen there.
    """
    if address.startswith(UNIX):
        server.add_insecure_port(address)
        return address
    host = address.rpartition(":")[0]
    if credentials is None:
        return f"{host}:{server.add_insecure_port(address)}"
    return f"{SCHEME}{host}:{server.add_secure_port(address, credentials)}"


def _note_sent_in_clear(address: str, access: Access) -> None:
    if access.key is not None and not is_local(address):
        _warn(address)


@lru_cache(maxsize=1024)
def _warn(address: str) -> None:
    """Once an address, that is."""
    _log.warning(
        "the key goes to %s unencrypted, and so does everything else; give what listens there tls_cert and "
        "tls_key, and call it %s%s (docs/operations.md)",
        address,
        SCHEME,
        address,
    )


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
