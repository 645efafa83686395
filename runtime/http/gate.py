"""What every request passes: the key is checked, and at its end it is counted and one line is logged."""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Callable, MutableMapping
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from weft.runtime.orchestrator.caller import CALLER, caller_of

from .errors import ApiError
from .responses import error_response

__all__ = ["CLIENT_CLOSED", "Gate"]

_log = logging.getLogger(__name__)

_OPEN: Final = frozenset({"/health", "/metrics", "/ready"})

CLIENT_CLOSED: Final = 499
"""What stands for the status where no answer was begun, as in nginx's log; nobody receives it."""

Note = Callable[[str, int, float], None]
"""Takes the path of a request, the status of its answer, and how many seconds it took."""


class Gate:
    """Lets requests with the right key in, and notes and logs each."""

    def __init__(self, app: ASGIApp, api_key: str | None, note: Note) -> None:
        self._app = app
        self._note = note
        self._expected = None if api_key is None else f"Bearer {api_key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        CALLER.set(caller_of(scope["headers"]))
        outcome = _Outcome(scope, send)
        try:
            if self._admits(scope):
                await self._app(scope, receive, outcome.send)
            else:
                message = "the API key is missing or wrong; send it as 'Authorization: Bearer KEY'"
                refusal = error_response(ApiError(401, message, code="invalid_api_key"))
                await refusal(scope, receive, outcome.send)
        finally:
            self._note(scope["path"], outcome.status or CLIENT_CLOSED, outcome.seconds)
            outcome.log()

    def _admits(self, scope: Scope) -> bool:
        if self._expected is None or scope["path"] in _OPEN:
            return True
        given = Headers(scope=scope).getlist("authorization")
        return len(given) == 1 and hmac.compare_digest(given[0].encode("latin-1"), self._expected)


class _Outcome:
    """How a request ended."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        self._started = time.monotonic()
        self.status = 0  # 0: no answer has begun
        self._run = ""
        self._complete = False

    async def send(self, message: Message) -> None:
        """Pass a message on, taking note of it."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._run = _header(message, b"x-request-id")
        elif message["type"] == "http.response.body":
            self._complete = not message.get("more_body", False)
        await self._send(message)

    @property
    def seconds(self) -> float:
        """Since the request came."""
        return time.monotonic() - self._started

    def log(self) -> None:
        """Write the line."""
        scope = self._scope
        level = logging.DEBUG if scope["path"] in _OPEN else logging.INFO
        _log.log(
            level,
            "%s %s from %s: %s%s in %.0f ms%s",
            scope["method"],
            scope["path"],
            scope["client"][0] if scope.get("client") else "a socket",
            self.status or "no answer",
            "" if self._complete else ", its client went away",
            self.seconds * 1e3,
            f", run {self._run}" if self._run else "",
        )


def _header(message: MutableMapping[str, Any], name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in message["headers"] if key == name), "")
