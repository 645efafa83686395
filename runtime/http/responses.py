"""Answers that end with their request: a stream of server-sent events, and waiting for one result."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from .errors import ApiError

__all__ = ["DONE", "EventStream", "Gone", "error_response", "event", "while_connected"]

DONE: Final = b"data: [DONE]\n\n"
_ALIVE: Final = b": waiting\n\n"
_QUIET_S: Final = 10.0  # then clients and proxies between are told that the stream is alive

T = TypeVar("T")


class Gone(Exception):
    """The client has closed the connection: nobody reads an answer."""


def event(data: Mapping[str, Any]) -> bytes:
    """JSON data as one server-sent event."""
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def error_response(problem: ApiError) -> Response:
    """The error object with its status."""
    return JSONResponse(problem.body, problem.status)


async def while_connected(request: Request, work: Awaitable[T], cancel: Callable[[], None]) -> T:
    """The result of `work`; when the client goes away first, `cancel` is called and Gone raised."""
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnect(request.receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Gone
        return working.result()
    finally:
        cancel()
        await _end(working, gone)


class EventStream(Response):
    """Server-sent events for as long as the client listens.

    The status waits for the first event, so that what goes wrong before has a status of its own; what goes
    wrong later is an event with an error object. A client that reads slowly is waited for. `cancel` is called
    when the stream ends, in whatever way.
    """

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncIterator[bytes], cancel: Callable[[], None], headers: Mapping[str, str]
    ) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no", **headers})
        del self.headers["content-length"]
        self._events = events
        self._cancel = cancel
        self._begun = False
        self._sending = 0
        self._quiet = True  # nothing was sent lately, nor is being sent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        pump = asyncio.ensure_future(self._pump(scope, receive, send))
        gone = asyncio.ensure_future(_disconnect(receive))
        try:
            while not (pump.done() or gone.done()):
                await asyncio.wait({pump, gone}, timeout=_QUIET_S, return_when=asyncio.FIRST_COMPLETED)
                if self._quiet and not (pump.done() or gone.done()):
                    await self._send(send, _ALIVE)
                self._quiet = not self._sending
            if pump.done():
                pump.result()
        finally:
            self._cancel()
            await _end(pump, gone)

    async def _pump(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async for chunk in self._events:
                await self._send(send, chunk)
        except ApiError as problem:
            if not self._begun:
                await error_response(problem)(scope, receive, send)
                return
            await self._send(send, event(problem.body))
        await self._send(send, b"", last=True)

    async def _send(self, send: Send, chunk: bytes, *, last: bool = False) -> None:
        self._sending += 1
        self._quiet = False
        if not self._begun:
            self._begun = True
            start: Message = {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
            await send(start)
        await send({"type": "http.response.body", "body": chunk, "more_body": not last})
        self._sending -= 1


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
