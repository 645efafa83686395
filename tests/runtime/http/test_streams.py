"""Slow clients, clients that go away, workers that die, a server that stops: what becomes of streams."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from weft.graph.ops.primitive import Decode
from weft.proto import value_pb2, worker_pb2
from weft.runtime.http import responses

from .conftest import Door, StartDoor, Until, language_model

HI: list[Any] = [{"role": "user", "content": "hi"}]


class Stream:
    """A streamed chat over a socket of its own, read line by line when the test says so."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def text(self, upto: int | None = None) -> str:
        """The content of the next chunks: `upto` that many characters, or to the end."""
        text = ""
        while upto is None or len(text) < upto:
            line = (await self._reader.readline()).decode()
            if line == "data: [DONE]\n":
                return text
            assert line, f"the stream broke off after {text!r}"
            if line.startswith("data: "):
                chunk = json.loads(line.removeprefix("data: "))
                assert "error" not in chunk, chunk
                text += "".join(choice["delta"].get("content", "") for choice in chunk["choices"])
        return text

    async def rest(self) -> str:
        """Everything up to the end of the connection, as it is."""
        return (await self._reader.read()).decode()

    def close(self) -> None:
        self._writer.close()


def request(**body: Any) -> bytes:
    """A chat as HTTP/1.0, whose answer ends with the connection."""
    content = json.dumps({"model": "m", "messages": HI, "stream": True, **body}).encode()
    return f"POST /v1/chat/completions HTTP/1.0\r\ncontent-length: {len(content)}\r\n\r\n".encode() + content


@asynccontextmanager
async def streaming(door: Door, **body: Any) -> AsyncIterator[Stream]:
    """A chat that is being streamed."""
    host, _, port = door.http.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request(**body))
    try:
        yield Stream(reader, writer)
    finally:
        writer.close()


@asynccontextmanager
async def unread(door: Door, until: Until) -> AsyncIterator[socket.socket]:
    """A chat that is being streamed to a client that does not read, and of which not all has been sent."""
    host, _, port = door.http.rpartition(":")
    for worker in door.workers:
        worker.reply, worker.step = "0123456789" * 800_000, 200_000
    with socket.socket() as plug:
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        plug.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(plug, (host, int(port)))
        await loop.sock_sendall(plug, request())
        await until(lambda: [r.state for r in door.server.orchestrator.records.values()] == ["done"])
        yield plug


async def received(plug: socket.socket) -> str:
    """Everything up to the end of the connection."""
    data = b""
    while piece := await asyncio.get_running_loop().sock_recv(plug, 2**20):
        data += piece
    return data.decode()


async def test_a_thousand_slow_streams_are_held_while_another_call_goes_through(
    start_door: StartDoor, until: Until
) -> None:
    count = 1000
    door = await start_door()
    worker = await door.worker("w1")
    worker.reply = "0123456789"
    worker.pause = worker.step = 4
    async with asyncio.TaskGroup() as group:
        opened = [streaming(door, temperature=0) for _ in range(count)]
        streams = [await each.__aenter__() for each in opened]
        begun = [group.create_task(stream.text(upto=4)) for stream in streams]
    assert {task.result() for task in begun} == {"0123"}
    assert worker.paused == len(door.runs) == count
    worker.pause = None
    answer = await door.openai.chat.completions.create(model="m", messages=HI)
    assert answer.choices[0].message.content == "0123456789"
    assert len(door.runs) == count
    worker.go.set()
    rest = await asyncio.gather(*(stream.text() for stream in streams))
    assert set(rest) == {"456789"}
    await until(lambda: not door.runs)
    for each in opened:
        await each.__aexit__(None, None, None)


async def test_a_client_that_does_not_read_is_waited_for_and_others_are_not(
    start_door: StartDoor, until: Until
) -> None:
    door = await start_door(max_message_mb=64)
    worker = await door.worker("w1")
    async with unread(door, until) as plug:
        reply, worker.reply = worker.reply, "short"
        async with streaming(door) as other:
            assert await other.text() == "short"
        *events, done, _ = (await received(plug)).split("\n\n")
    assert done == "data: [DONE]"
    chunks = [json.loads(event.partition("data: ")[2]) for event in events]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == reply


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_goes_away_cancels_its_run(
    door: Door, until: Until, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "weft.runtime.http")
    worker = door.workers[0]
    worker.pause = 2
    worker.gated = set() if stream else {Decode}
    async with streaming(door, stream=stream) as client:
        if stream:
            assert await client.text(upto=2) == "<["
        await until(worker.fragments)
        (run,) = door.runs
    await until(lambda: worker.cancelled(run))
    assert not door.runs
    assert door.server.orchestrator.records[run].state == "cancelled"
    await until(lambda: "its client went away" in caplog.text or "499" in caplog.text)


async def test_a_client_that_goes_away_before_its_body_is_complete(
    door: Door, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "weft.runtime.http")
    host, _, port = door.http.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
    await writer.drain()
    await asyncio.sleep(0.05)
    writer.close()
    await until(lambda: "/v1/completions" in caplog.text)
    assert "Traceback" not in caplog.text
    assert not door.server.orchestrator.records


async def test_a_worker_that_dies_in_the_middle_loses_and_repeats_nothing(door: Door, until: Until) -> None:
    first = door.workers[0]
    first.pause = 5
    async with streaming(door, temperature=0) as stream:
        assert await stream.text(upto=5) == "<[use"
        second = await door.worker("w2")
        second.pause = 3
        await first.stop()
        await until(lambda: second.paused)
        second.go.set()
        assert await stream.text() == "r]hi>"


async def test_a_repeated_text_that_differs_is_an_error(door: Door, until: Until) -> None:
    first = door.workers[0]
    first.pause = 5
    async with streaming(door) as stream:
        assert await stream.text(upto=5) == "<[use"
        (await door.worker("w2")).reply = "<[us something else"
        await first.stop()
        rest = await stream.rest()
    assert "another one did not write again what had been streamed" in rest
    assert "[DONE]" not in rest


async def test_a_failure_in_the_middle_is_an_event(door: Door) -> None:
    worker = door.workers[0]
    worker.pause = 2
    async with streaming(door) as stream:
        assert await stream.text(upto=2) == "<["
        (run,) = door.runs.values()
        (node,) = run.attempts
        failed = worker_pb2.TaskFailed(
            run=run.id, node=node, attempt=1, fault=value_pb2.Fault(code="internal", message="it broke")
        )
        worker.reports.put_nowait(worker_pb2.Report(failed=failed))
        last = (await stream.rest()).strip().splitlines()[-1]
    error = json.loads(last.removeprefix("data: "))["error"]
    assert (error["message"], error["type"]) == ("it broke", "server_error")


async def test_a_server_that_stops_says_so_to_those_who_wait(start_door: StartDoor, until: Until) -> None:
    door = await start_door()
    worker = await door.worker("w1")
    worker.pause = 2
    async with streaming(door) as stream:
        assert await stream.text(upto=2) == "<["
        worker.gated = {Decode}
        whole = await door.stack.enter_async_context(streaming(door, stream=False))
        await until(lambda: len(worker.fragments()) == 2)
        door.server.orchestrator.close()
        assert '"message":"the run was cancelled: the server is shutting down"' in await stream.rest()
        answer = await whole.rest()
    assert answer.startswith("HTTP/1.1 503")
    assert "the server is shutting down" in answer


async def test_a_server_that_stops_hangs_up_on_those_who_do_not_read(
    start_door: StartDoor, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    door = await start_door(max_message_mb=64)
    await door.worker("w1")
    async with unread(door, until) as plug:
        await door.http_server.stop()
        assert "[DONE]" not in await received(plug)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_quiet_stream_shows_that_it_is_alive(
    start_door: StartDoor, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responses, "_QUIET_S", 0.01)
    door = await start_door()
    worker = await door.worker("w1", language_model("m"))
    worker.pause = 0
    async with streaming(door) as stream:
        await until(lambda: worker.paused)
        assert (await stream._reader.readuntil(b": waiting\n\n")).startswith(b"HTTP/1.1 200")
        worker.go.set()
        assert await stream.text() == "<[user]hi>"
