"""HTTP to an OpenAI-compatible server, and what its failures mean for a task."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx

from ...faults import TaskError

__all__ = ["Client", "Completion"]

Completion = dict[str, Any]
"""A response to a request for a completion, or an event of its stream."""

_CONNECT_S: Final = 5.0
_SILENCE_S: Final = 600.0  # without a byte of an answer: a busy server queues, but not for so long
_IDLE_S: Final = 3.0  # that a connection is kept; servers close theirs after 5
_PAUSES_S: Final = (0.25, 1.0, 3.0)  # before a request is sent again that the server had no room for
_BUSY: Final = frozenset({429, 503})
_SHOWN: Final = 300  # characters of what is no message of the server's
_OTHER_FIELDS: Final = (b"", b"event", b"id", b"retry")  # of a stream of events; comments have no name
_TOO_LONG: Final = re.compile(r"context[ _](?:length|size|window)", re.IGNORECASE)


class Client:
    """The connections to one server. Belongs to an event loop."""

    def __init__(self, url: str, key: str, most: int) -> None:
        """`most`: requests at a time; further ones wait."""
        self._url = url
        self._turn = asyncio.Semaphore(most)
        self._http = httpx.AsyncClient(
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(_SILENCE_S, connect=_CONNECT_S),
            limits=httpx.Limits(max_connections=None, keepalive_expiry=_IDLE_S),
        )

    async def close(self) -> None:
        """Hang up."""
        await self._http.aclose()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Within, one request may be sent."""
        async with self._turn:
            yield

    async def models(self) -> list[dict[str, Any]]:
        """What the server serves. Raises TaskError."""
        async with self._sent("GET", "models", None) as response:
            found = _parsed(await response.aread(), self._url)
        cards = found.get("data")
        if not isinstance(cards, list) or not all(isinstance(card, dict) and "id" in card for card in cards):
            raise _odd(self._url, json.dumps(found).encode())
        return cards

    async def complete(self, body: Completion) -> Completion:
        """A whole completion. Raises TaskError."""
        async with self._sent("POST", "completions", body) as response:
            return _parsed(await response.aread(), self._url)

    async def stream(self, body: Completion) -> AsyncGenerator[Completion]:
        """The events of a completion. Closing the iterator closes the connection, by which the server stops.

        Raises TaskError, also if the stream ends before its end.
        """
        streamed = {**body, "stream": True, "stream_options": {"include_usage": True}}
        async with self._sent("POST", "completions", streamed) as response:
            async for line in _lines(response):
                name, _, value = line.partition(b":")
                if name == b"data":
                    if value.strip() == b"[DONE]":
                        return
                    yield _parsed(value, self._url)
                elif name not in _OTHER_FIELDS:
                    raise _odd(self._url, line)
        raise _lost(self._url, "the answer broke off")

    @asynccontextmanager
    async def _sent(self, method: str, path: str, body: Completion | None) -> AsyncIterator[httpx.Response]:
        """The response to a request, which is sent again while the server is too busy."""
        content = None if body is None else json.dumps(body).encode()
        headers = {} if body is None else {"content-type": "application/json"}
        try:
            for pause in (*_PAUSES_S, None):
                request = self._http.stream(method, f"{self._url}/{path}", content=content, headers=headers)
                async with request as response:
                    if response.status_code not in _BUSY or pause is None or body is None:
                        if response.status_code != httpx.codes.OK:
                            await response.aread()
                            raise _refused(self._url, response)
                        yield response
                        return
                await asyncio.sleep(pause)
        except httpx.TransportError as problem:
            raise _lost(self._url, f"{type(problem).__name__}: {problem}".rstrip(": ")) from problem


async def _lines(response: httpx.Response) -> AsyncIterator[bytes]:
    """The lines of a body, which end with newlines only: JSON may hold all else that ends lines of text."""
    rest = b""
    async for chunk in response.aiter_bytes():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.rstrip(b"\r")


def _lost(url: str, how: str) -> TaskError:
    return TaskError("internal", f"the server at {url} was lost: {how}", retryable=True)


def _odd(url: str, answer: bytes) -> TaskError:
    shown = " ".join(answer.decode(errors="replace").split())[:_SHOWN]
    return TaskError("internal", f"what the server at {url} answers is not OpenAI's API: {shown!r}")


def _refused(url: str, response: httpx.Response) -> TaskError:
    """What a status other than 200 means for a task."""
    message, kind = _message(response.text)
    status = response.status_code
    said = f"the server at {url} answers {status}: {message}"
    if status in (401, 403):
        return TaskError("invalid", f"{said}; set 'key' of the model to what the server wants")
    if status == 413 or "context" in kind or (status < 500 and _TOO_LONG.search(message)):
        return TaskError("too_large", said)
    if status == 404:
        return TaskError("not_found", said)
    retryable = status >= 500 or status in (408, 429)
    return TaskError("internal" if retryable else "invalid", said, retryable=retryable)


def _message(text: str) -> tuple[str, str]:
    """What an error says, and the kind that it is called."""
    try:
        body = json.loads(text)
    except ValueError:
        body = None
    error = body.get("error", body) if isinstance(body, dict) else None
    if isinstance(error, Mapping):
        for name in ("message", "detail", "error"):
            if error.get(name):
                return str(error[name]), f"{error.get('type')} {error.get('code')}"
    return str(error or " ".join(text.split())[:_SHOWN] or "nothing"), ""


def _parsed(text: bytes, url: str) -> Completion:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise _odd(url, text)
    if value.get("error"):
        message, _ = _message(json.dumps(value))
        raise TaskError("internal", f"the server at {url} failed: {message}", retryable=True)
    return value
