"""A channel to a server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, ClassVar, Final, TypeVar

import grpc
from grpc import aio

from weft.frontend.errors import Unavailable
from weft.proto.orchestrator_pb2_grpc import OrchestratorStub
from weft.runtime.access import Access, keyed
from weft.runtime.addresses import SCHEME, speaks_tls
from weft.runtime.channels import open_channel
from weft.runtime.tls import obstacle

from .calls import Calls
from .faults import error_of_status

if TYPE_CHECKING:
    from weft.proto.orchestrator_pb2_grpc import OrchestratorAsyncStub

__all__ = ["Connection"]

T = TypeVar("T")

_PATIENCE_S: Final = 3.0  # how long a server may take to answer the first time
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),  # the server says what is too large for it
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 10_000),  # who waits for a server that stands still, or vanishes, hears of it
    ("grpc.http2.ping_timeout_ms", 20_000),
)


class Connection:
    """A channel and its stub; lives on the network loop, but for the `calls`."""

    _owner: ClassVar[int | None] = None
    """The process that made the first connection."""

    def __init__(self, address: str, access: Access) -> None:
        self._expect_no_fork()
        self.address = address
        self._access = access
        self._channel = open_channel(address, access, _OPTIONS)
        self.stub: OrchestratorAsyncStub = OrchestratorStub(keyed(self._channel, access.key))
        self.calls = Calls(address, access, _OPTIONS)
        self.answered = False
        """Whether the server has answered once."""

    @classmethod
    def _expect_no_fork(cls) -> None:
        """Raises Unavailable in a child that was forked while connections were there."""
        cls._owner = cls._owner or os.getpid()
        if cls._owner != os.getpid():
            raise Unavailable(
                "this process was forked from one that had used weft, and gRPC does not survive that; "
                "fork before the first call, or start processes with multiprocessing's 'spawn' method",
                code="unavailable",
            )

    async def ready(self) -> None:
        """Wait until the server answers. Raises Unavailable within seconds if it does not."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await self._open()
            self.answered = True
        except TimeoutError:
            message = (
                f"no weft server answers at {self.address!r}; start one there with "
                f"`weft serve --listen {self.address.removeprefix(SCHEME)}`, or name another with "
                "weft.connect(...) or WEFT_SERVER"
            )
            if speaks_tls(self.address) and self._access.authorities is None:
                message += "; if there is one, set WEFT_TLS_CA, as gRPC may not know its CA"
            raise Unavailable(message, code="unavailable") from None

    async def _open(self) -> None:
        """Wait for the channel. Raises Unavailable at once if TLS is in the way, as waiting helps nothing."""
        while (state := self._channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
            if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                why = await obstacle(self.address, self._access)
                if why:
                    message = f"the server at {self.address!r} cannot be talked to: {why}"
                    raise Unavailable(message, code="unavailable")
            await self._channel.wait_for_state_change(state)

    async def call(self, method: Callable[[OrchestratorAsyncStub], Awaitable[T]]) -> T:
        """The answer to one call. Raises the ProgramError that says why there is none."""
        await self.ready()
        try:
            return await method(self.stub)
        except aio.AioRpcError as error:
            raise error_of_status(error, self.address) from None

    async def close(self) -> None:
        """Close the channels and cancel what goes on over them."""
        self.calls.close()
        await self._channel.close()
