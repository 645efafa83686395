"""The key of a server: every gRPC call to its processes carries it, or is refused.

It travels as HTTP's does, `authorization: Bearer KEY`, in the metadata of the call. It keeps strangers out;
from those who can read the network only TLS keeps it secret.
"""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar, cast

import grpc

__all__ = ["KEY", "KEYLESS", "Access", "carries_key", "guards", "keyed"]

_log = logging.getLogger(__name__)

KEY: Final = "WEFT_API_KEY"
"""The variable that holds the key. Not an argument of a process, which everybody on the machine can read."""

_EVERY_S: Final = 60.0  # a line on refused calls at most
_HEADER: Final = "authorization"
_OPEN: Final = "/grpc.health.v1.Health/"  # as over HTTP: whoever watches a server needs no key
_REFUSAL: Final = (
    "the key of this server is missing or wrong; set WEFT_API_KEY, or api_key in weft.toml, to the server's, "
    "or send 'authorization: Bearer KEY' as metadata"
)

AnyChannel = TypeVar("AnyChannel", grpc.Channel, grpc.aio.Channel)
Metadata = Sequence[tuple[str, str | bytes]]


@dataclass(frozen=True, slots=True)
class Access:
    """With what a process calls others."""

    key: str | None = field(default=None, repr=False)
    """The key of the server."""
    authorities: bytes | None = field(default=None, repr=False)
    """The certificates, in PEM, by which it knows those that speak TLS; None: those of the public CAs."""


KEYLESS: Final = Access()
"""For servers without a key."""


def keyed(channel: AnyChannel, key: str | None) -> AnyChannel:
    """The channel for a stub; if there is a key, all calls of the stub carry it.

    gRPC's own interceptors do the same, but hand on each message of a stream.
    """
    return channel if key is None else cast(AnyChannel, _Keyed(channel, key))


def guards(key: str | None) -> list[grpc.aio.ServerInterceptor]:
    """What lets into a server only who has the key; nothing if there is none."""
    return [] if key is None else [_Guard(key)]


def carries_key(metadata: Iterable[tuple[str, str | bytes]] | None) -> bool:
    """Whether a call with this metadata was sent with a key, be it the right one."""
    return any(name == _HEADER for name, _ in metadata or ())


class _Keyed:
    """What a stub needs of a channel; its calls carry a key."""

    def __init__(self, channel: Any, key: str) -> None:
        self._channel = channel
        self._header = (_HEADER, f"Bearer {key}")

    def unary_unary(self, *args: Any, **kwargs: Any) -> _Method:
        return _Method(self._channel.unary_unary(*args, **kwargs), self._header)

    def unary_stream(self, *args: Any, **kwargs: Any) -> _Method:
        return _Method(self._channel.unary_stream(*args, **kwargs), self._header)

    def stream_unary(self, *args: Any, **kwargs: Any) -> _Method:
        return _Method(self._channel.stream_unary(*args, **kwargs), self._header)

    def stream_stream(self, *args: Any, **kwargs: Any) -> _Method:
        return _Method(self._channel.stream_stream(*args, **kwargs), self._header)


class _Method:
    """A method of a stub."""

    def __init__(self, method: Any, header: tuple[str, str]) -> None:
        self._method = method
        self._header = header

    def __call__(self, *args: Any, metadata: Metadata | None = None, **kwargs: Any) -> Any:
        return self._method(*args, metadata=(*(metadata or ()), self._header), **kwargs)

    def future(self, *args: Any, metadata: Metadata | None = None, **kwargs: Any) -> Any:
        """A blocking channel's way of not blocking."""
        return self._method.future(*args, metadata=(*(metadata or ()), self._header), **kwargs)


class _Guard(grpc.aio.ServerInterceptor):
    """Looks at the key of each call, before anything of it is read."""

    def __init__(self, key: str) -> None:
        self._expected = f"Bearer {key}".encode()
        self._told_s = -_EVERY_S
        self._untold = 0  # refusals that are not in the log yet

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The method, or one that refuses."""
        if handler_call_details.method.startswith(_OPEN) or self._admits(handler_call_details):
            return await continuation(handler_call_details)
        return grpc.stream_stream_rpc_method_handler(self._refuse)

    def _admits(self, details: grpc.HandlerCallDetails) -> bool:
        given = [value for name, value in details.invocation_metadata or () if name == _HEADER]
        if len(given) != 1:  # of several, one may have been meant for somebody else
            return False
        text = given[0].encode() if isinstance(given[0], str) else given[0]
        return hmac.compare_digest(text, self._expected)

    async def _refuse(self, requests: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self._note(context.peer())
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, _REFUSAL)

    def _note(self, peer: str) -> None:
        self._untold += 1
        if time.monotonic() >= self._told_s + _EVERY_S:
            _log.warning("calls without the right key were refused: %d, the last of %s", self._untold, peer)
            self._told_s, self._untold = time.monotonic(), 0
