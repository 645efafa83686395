"""A network between a client and a server on the same machine: every byte arrives so much later.

Parrot's evaluation has 200 to 300 ms between its clients and the service, there and back. A `Line` stands
before a server's port; whoever connects to the line instead pays the way for every message, whatever protocol
it speaks. Bytes stay in order and wait for none before them, so the line is long, not narrow.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

__all__ = ["Line"]

_MOST: Final = 1 << 16  # bytes that are read at once


class Line:
    """A TCP port whose bytes reach another after `one_way_s` seconds. Open and close it on one event loop."""

    def __init__(self, target: str, one_way_s: float) -> None:
        """`target`: HOST:PORT."""
        host, _, port = target.rpartition(":")
        self._host, self._port = host, int(port)
        self._one_way_s = one_way_s
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    async def open(self) -> str:
        """Listen; HOST:PORT of this end."""
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        """Stop listening, and end what is connected."""
        assert self._server is not None
        self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._one_way(reader, far_writer))
                group.create_task(self._one_way(far_reader, writer))
        except asyncio.CancelledError:
            pass  # by `close`; asyncio reports a connection whose task is cancelled as an error
        finally:
            self._open.discard(task)
            writer.close()

    async def _one_way(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until the end of what is sent, which arrives as late as the rest."""
        loop = asyncio.get_running_loop()
        underway: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def arrive() -> None:
            while True:
                at, piece = await underway.get()
                await asyncio.sleep(at - loop.time())
                if not piece:
                    return
                writer.write(piece)
                await writer.drain()

        arriving = asyncio.create_task(arrive())
        try:
            with contextlib.suppress(ConnectionError):
                while piece := await reader.read(_MOST):
                    underway.put_nowait((loop.time() + self._one_way_s, piece))
            underway.put_nowait((loop.time() + self._one_way_s, b""))
            with contextlib.suppress(ConnectionError):
                await arriving
        finally:
            arriving.cancel()
            writer.close()
