"""A server that answers as a test says, also as no server should."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["CUT", "WAIT", "Asked", "FakeServer", "Reply", "completion", "events", "refusal", "running"]

CUT: Final = object()
"""The connection breaks here."""
WAIT: Final = object()
"""Nothing comes until the client has hung up."""


@dataclass(frozen=True)
class Asked:
    """A request."""

    path: str
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True)
class Reply:
    """A response: a status, and pieces of a body."""

    pieces: Sequence[str | object]
    status: int = 200


def events(*texts: str, finish: str = "stop", **last: Any) -> Reply:
    """A stream of texts; `last` are fields of its last event."""
    made = [{"choices": [{"index": 0, "text": text, "finish_reason": None}]} for text in texts]
    made.append({"choices": [{"index": 0, "text": "", "finish_reason": finish}], **last})
    return Reply([*(f"data: {json.dumps(event)}\n\n" for event in made), "data: [DONE]\n\n"])


def completion(text: str = "", **fields: Any) -> Reply:
    """A whole completion; `fields` are of its choice."""
    choice = {"index": 0, "text": text, "finish_reason": "length", **fields}
    return Reply([json.dumps({"choices": [choice]})])


def refusal(status: int, message: str = "no", **fields: Any) -> Reply:
    """An error as OpenAI's servers word it."""
    return Reply([json.dumps({"error": {"message": message, **fields}})], status)


@dataclass
class FakeServer:
    """What it is asked is kept; a start asks for the models and then for one token."""

    url: str = ""
    models: list[dict[str, Any]] = field(
        default_factory=lambda: [{"id": "reference", "owned_by": "vllm", "max_model_len": 4096}]
    )
    answer: Callable[[Any], Reply] = lambda body: events("")
    trial: Reply = field(default_factory=lambda: completion("The quick brown fox jumps over 13 lazy dogs. "))
    """The answer to what a start asks for."""
    refuses: Reply | None = None
    """The answer to everything, if there is one."""
    asked: list[Asked] = field(default_factory=list)
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)
    bodies: list[Any] = field(default_factory=list)
    """What completions were asked for, the first after a look at the models left out: it is a trial."""
    _on_trial: bool = True

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, for one request."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            path, headers = head.split()[1], dict(_header(line) for line in head.split("\r\n")[1:-2])
            size = int(headers.get("content-length", 0))
            body = json.loads(await reader.readexactly(size)) if size else None
            self.asked.append(Asked(path, headers, body))
            await self._write(self._reply(path, body), reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def _reply(self, path: str, body: Any) -> Reply:
        if self.refuses is not None:
            return self.refuses
        if path.endswith("/models"):
            self._on_trial = True
            return Reply([json.dumps({"object": "list", "data": self.models})])
        if not path.endswith("/completions"):
            return refusal(404)
        if self._on_trial:
            self._on_trial = False
            return self.trial
        self.bodies.append(body)
        return self.answer(body)

    async def _write(self, reply: Reply, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 {reply.status} x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
        writer.write(head.encode())
        for piece in reply.pieces:
            if piece is CUT:
                return
            if piece is WAIT:
                await reader.read()  # nothing more comes but the end
                self.hung_up.set()
                return
            data = str(piece).encode()
            writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()


def _header(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.lower(), value.strip()


@asynccontextmanager
async def running(server: FakeServer, port: int = 0) -> AsyncIterator[FakeServer]:
    """The server on a free port."""
    listener = await asyncio.start_server(server.serve, "127.0.0.1", port)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"
    try:
        yield server
    finally:
        listener.close()
        await listener.wait_closed()
