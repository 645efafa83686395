"""What gRPC alone costs: the messages of weft's runs between processes that only give them back.

gRPC is set up as in weft's processes, and the second one listens at a Unix socket, as weft's workers do.
``python -m workloads.echo ADDRESS [NEXT]`` serves one and prints its port. It asks the one at NEXT in turn.
"""

from __future__ import annotations

import queue
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import uvloop

from weft.runtime.environment import importing_grpc, prepare_process

from .noop import CHAIN, FAN_OUT, Arm

with importing_grpc():
    import grpc

__all__ = ["arms"]

_UNARY: Final = "/weft.bench.Echo/Call"
_STREAM: Final = "/weft.bench.Echo/Stream"


@contextmanager
def arms() -> Iterator[dict[str, Arm]]:
    """The floors of both ways to run the steps. The client blocks, which costs it no hop between threads.

    `grpc alone, once`: one call to a process that asks a second one over a stream, as a run of tools of the
    server does. `grpc alone, each step`: a stream's message and its answer for each step of the chain, and
    for each half of the fan-out, as tools of the client do.
    """
    prepare_process()  # for those that are started from here
    with (
        tempfile.TemporaryDirectory() as folder,
        _process(back := f"unix:{folder}/back"),
        _process("127.0.0.1:0", back) as front,
        grpc.insecure_channel(f"127.0.0.1:{front}") as channel,
    ):
        call: Any = channel.unary_unary(_UNARY)
        requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        stream: Any = channel.stream_stream(_STREAM)
        answers = stream(iter(requests.get, None))

        def round_trip(data: bytes) -> bytes:
            requests.put(data)
            answer: bytes = next(answers)
            return answer

        async def once(x: str) -> str:
            return bytes(call(x.encode())).decode()

        async def fan_out_once(x: str) -> str:
            return str(len((await once(x * FAN_OUT)).split(x)) - 1)

        async def each(x: str) -> str:
            data = x.encode()
            for _ in range(CHAIN):
                data = round_trip(data)
            return data.decode()

        async def fan_out_each(x: str) -> str:
            parts = round_trip(x.encode() * FAN_OUT).split(x.encode())
            return round_trip(str(len(parts) - 1).encode()).decode()

        try:
            yield {
                "grpc alone, once": Arm(once, fan_out_once),
                "grpc alone, each step": Arm(each, fan_out_each),
            }
        finally:
            requests.put(None)


@contextmanager
def _process(*addresses: str) -> Iterator[str]:
    """A process of this module; its port."""
    command = [sys.executable, "-m", __name__, *addresses]
    folder = Path(__file__).parents[1]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


async def _serve(address: str, following: str = "") -> None:
    """Give back what comes, a call's data by way of the process `following` if there is one."""
    asked: Any = None
    if following:
        asked = grpc.aio.insecure_channel(following).stream_stream(_STREAM)()

    async def call(data: bytes, context: Any) -> bytes:
        if asked is None:
            return data
        await asked.write(data)
        answer: bytes = await asked.read()
        return answer

    async def stream(_: Any, context: Any) -> None:
        while (data := await context.read()) is not grpc.aio.EOF:
            await context.write(data)

    server = grpc.aio.server()
    methods: dict[str, Any] = {
        "Call": grpc.unary_unary_rpc_method_handler(call),
        "Stream": grpc.stream_stream_rpc_method_handler(stream),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("weft.bench.Echo", methods),))
    port = server.add_insecure_port(address)
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(_serve(*sys.argv[1:]))
