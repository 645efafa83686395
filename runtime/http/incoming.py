"""Requests as they come in: their server, and their JSON bodies within bounds."""

from __future__ import annotations

import asyncio
import json
from typing import Any, NoReturn

from starlette.requests import ClientDisconnect, Request

from weft.runtime.orchestrator.orchestrator import Orchestrator

from .errors import ApiError
from .responses import Gone

__all__ = ["in_turn", "orchestrator_of", "parsed", "read"]


def orchestrator_of(request: Request) -> Orchestrator:
    """The orchestrator behind the door."""
    orchestrator: Orchestrator = request.app.state.orchestrator
    return orchestrator


def in_turn(request: Request) -> asyncio.Lock:
    """Held while a request is read and its run started, which takes a millisecond or two.

    Many that come at once do so one by one, and in between the event loop sees to everything else.
    """
    turn: asyncio.Lock = request.app.state.turn
    return turn


def parsed(raw: bytes) -> Any:
    """The JSON value of a body. Raises ApiError."""
    try:
        value = json.loads(raw.decode("utf-8-sig"), parse_constant=_refuse)
        if b"\\u" in raw:  # only so can half a character be spelled
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ApiError(400, "the body is nested too deeply") from None
    except UnicodeEncodeError:
        raise ApiError(400, "the body holds half of a surrogate pair, which is no text") from None
    except ValueError as problem:
        raise ApiError(400, f"the body is not JSON: {problem}") from None
    return value


async def read(request: Request) -> bytes:
    """The body. Raises ApiError if it is too large, and Gone."""
    most = orchestrator_of(request).max_bytes
    announced = request.headers.get("content-length", "")
    size = int(announced) if announced.isdecimal() else 0
    chunks: list[bytes] = []
    try:
        if size <= most:
            size = 0
            async for chunk in request.stream():
                size += len(chunk)
                if size > most:
                    break
                chunks.append(chunk)
    except ClientDisconnect:
        raise Gone from None
    if size > most:
        message = f"the body has more than {most} bytes; send less, or raise max_message_mb in the settings"
        raise ApiError(413, message)
    return b"".join(chunks)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")
