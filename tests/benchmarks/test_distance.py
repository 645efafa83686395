"""A line before a port: all bytes arrive, in order, later."""

from __future__ import annotations

import asyncio
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from workloads.distance import Line


async def echoed(pieces: list[bytes], one_way_s: float) -> tuple[bytes, float]:
    """What an echoing server sends back through a line, and seconds until the first of it."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(1 << 12):
            writer.write(piece)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    line = Line(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", one_way_s)
    reader, writer = await asyncio.open_connection(*(await line.open()).split(":"))
    loop = asyncio.get_running_loop()
    began = loop.time()
    for piece in pieces:
        writer.write(piece)
        await asyncio.sleep(0)
    first = await reader.read(1) if any(pieces) else b""
    took = loop.time() - began
    writer.write_eof()
    found = first + await reader.read()
    writer.close()
    await line.close()
    server.close()
    return found, took


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(0, 1 << 17), max_size=4), st.integers(0, 1 << 20))
def test_bytes_arrive_whole_and_in_order(lengths: list[int], seed: int) -> None:
    pieces = [Random(seed + number).randbytes(length) for number, length in enumerate(lengths)]
    found, _ = asyncio.run(echoed(pieces, 0.001))
    assert found == b"".join(pieces)


def test_an_answer_takes_the_way_there_and_back() -> None:
    """No answer can come sooner, however fast the machine is; it may come later."""
    _, took = asyncio.run(echoed([b"x"], 0.05))
    assert took >= 0.1


def test_a_line_can_be_closed_while_somebody_is_connected() -> None:
    async def left() -> bytes:
        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        line = Line(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", 0.0)
        reader, writer = await asyncio.open_connection(*(await line.open()).split(":"))
        writer.write(b"x")
        await asyncio.sleep(0.05)
        await line.close()
        found = await reader.read()
        writer.close()
        server.close()
        return found

    assert asyncio.run(left()) == b""
