"""Staying joined to an orchestrator, across its restarts."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

import grpc

from weft.proto import orchestrator_pb2, orchestrator_pb2_grpc, worker_pb2
from weft.runtime.access import Access, keyed
from weft.runtime.channels import open_channel
from weft.runtime.tls import obstacle

__all__ = ["stay_joined"]

_log = logging.getLogger(__name__)

_FIRST_DELAY_S: Final = 0.2
_LONGEST_DELAY_S: Final = 2.0
_WORTH_A_WARNING_S: Final = 3.0  # an orchestrator that stops or restarts is no news


async def stay_joined(orchestrator: str, access: Access, info: worker_pb2.WorkerInfo) -> None:
    """Join the orchestrator at `orchestrator`, and again whenever that ends; returns only when cancelled.

    Back-off between two attempts: 0.2 s, doubled up to 2 s, and 0.2 s again after one that was accepted.
    Warns of a reason why it is not joined once that has lasted for 3 s.
    """
    delay, reason, since = _FIRST_DELAY_S, "", time.monotonic()
    while True:
        accepted, why = await _join(orchestrator, access, info)
        if accepted:
            delay, reason, since = _FIRST_DELAY_S, "", time.monotonic()
        if why != reason and time.monotonic() - since >= _WORTH_A_WARNING_S:
            _log.warning("not joined to the orchestrator at %s: %s; trying again", orchestrator, why)
            reason = why
        await asyncio.sleep(delay)
        delay = min(2 * delay, _LONGEST_DELAY_S)


async def _join(orchestrator: str, access: Access, info: worker_pb2.WorkerInfo) -> tuple[bool, str]:
    """Whether the orchestrator accepted the worker, and why that has ended."""
    accepted, why = False, "the orchestrator ended the stream"
    # A new channel every time, without a back-off of its own.
    async with open_channel(orchestrator, access) as channel:
        stub: orchestrator_pb2_grpc.OrchestratorAsyncStub = orchestrator_pb2_grpc.OrchestratorStub(
            keyed(channel, access.key)
        )
        try:
            async for event in stub.Join(info):
                accepted, why = _note(event, orchestrator, accepted, why)
        except grpc.aio.AioRpcError as error:
            why = f"{error.code().name.lower()}: {error.details()}"
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                why = await obstacle(orchestrator, access) or why
    return accepted, why


def _note(event: orchestrator_pb2.JoinEvent, orchestrator: str, accepted: bool, why: str) -> tuple[bool, str]:
    if event.accepted:
        _log.info("joined the orchestrator at %s", orchestrator)
        return True, why
    return accepted, f"refused: {event.message}"
