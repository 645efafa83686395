"""Staying joined to an orchestrator, across its restarts."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import grpc

from weft.proto import orchestrator_pb2, orchestrator_pb2_grpc, worker_pb2

__all__ = ["stay_joined"]

_log = logging.getLogger(__name__)

_FIRST_DELAY_S: Final = 0.2
_LONGEST_DELAY_S: Final = 2.0
_KEEPALIVE: Final = (  # so that an orchestrator whose machine is gone is noticed
    ("grpc.keepalive_time_ms", 1000),
    ("grpc.keepalive_timeout_ms", 2000),
    ("grpc.http2.max_pings_without_data", 0),
)


async def stay_joined(orchestrator: str, info: worker_pb2.WorkerInfo) -> None:
    """Join the orchestrator at `orchestrator`, and again whenever that ends; returns only when cancelled.

    Back-off between two attempts: 0.2 s, doubled up to 2 s, and 0.2 s again after one that was accepted.
    """
    delay = _FIRST_DELAY_S
    reason = ""
    while True:
        accepted, why = await _join(orchestrator, info)
        if accepted:
            delay, reason = _FIRST_DELAY_S, ""
        if why != reason:
            _log.warning("not joined to the orchestrator at %s: %s; trying again", orchestrator, why)
            reason = why
        await asyncio.sleep(delay)
        delay = min(2 * delay, _LONGEST_DELAY_S)


async def _join(orchestrator: str, info: worker_pb2.WorkerInfo) -> tuple[bool, str]:
    """Whether the orchestrator accepted the worker, and why that has ended."""
    accepted, why = False, "the orchestrator ended the stream"
    async with grpc.aio.insecure_channel(
        orchestrator, _KEEPALIVE
    ) as channel:  # a new one: no back-off of grpc's own
        stub: orchestrator_pb2_grpc.OrchestratorAsyncStub = orchestrator_pb2_grpc.OrchestratorStub(channel)
        try:
            async for event in stub.Join(info):
                accepted, why = _note(event, orchestrator, accepted, why)
        except grpc.aio.AioRpcError as error:
            why = f"{error.code().name.lower()}: {error.details()}"
    return accepted, why


def _note(event: orchestrator_pb2.JoinEvent, orchestrator: str, accepted: bool, why: str) -> tuple[bool, str]:
    if event.accepted:
        _log.info("joined the orchestrator at %s", orchestrator)
        return True, why
    return accepted, f"refused: {event.message}"
