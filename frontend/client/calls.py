"""Whole runs as one call each, from any thread and any event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, cast

import grpc

from weft.graph.codec import decode_datum
from weft.graph.values import Datum
from weft.proto import orchestrator_pb2 as pb
from weft.proto.orchestrator_pb2_grpc import OrchestratorStub
from weft.runtime.access import Access, keyed
from weft.runtime.channels import Options, blocking_channel

from .faults import error_of, error_of_status
from .trace_context import trace_context

__all__ = ["Calls"]


class Calls:
    """A channel for runs that need neither this process's tools nor anything on the way.

    It has no event loop of its own, to and from which calls would have to be handed.
    """

    def __init__(self, address: str, access: Access, options: Options) -> None:
        self._address = address
        self._channel = blocking_channel(address, access, options)
        self._stub = OrchestratorStub(keyed(self._channel, access.key))

    def invoke(self, request: pb.SubmitRequest, program: str) -> tuple[Datum, ...]:
        """Run a graph; its outputs. Raises ProgramError. Ctrl-C cancels the run, as gRPC drops the call."""
        return self._outputs(partial(self._stub.Invoke, request, metadata=trace_context()), program)

    async def ainvoke(self, request: pb.SubmitRequest, program: str) -> tuple[Datum, ...]:
        """As `invoke`, for event loops; cancelling it cancels the run."""
        loop = asyncio.get_running_loop()
        over = loop.create_future()

        def tell(_: Any) -> None:
            with suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(_settle, over)

        call: Any = self._stub.Invoke.future(request, metadata=trace_context())
        call.add_done_callback(tell)
        try:
            await over
        except asyncio.CancelledError:
            call.cancel()
            raise
        return self._outputs(call.result, program)

    def close(self) -> None:
        """Close the channel and cancel what goes on over it."""
        self._channel.close()

    def _outputs(self, answer: Callable[[], pb.RunResult], program: str) -> tuple[Datum, ...]:
        try:
            result = answer()
        except grpc.RpcError as problem:
            raise error_of_status(cast("grpc.Call", problem), self._address, program) from None
        if result.HasField("fault"):
            raise error_of(result.fault, program)
        return tuple(decode_datum(output) for output in result.outputs)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
