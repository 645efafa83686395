"""Two graphs of steps that do nothing, as weft programs and in plain asyncio: what is left is overhead."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

from weft import Client, program, server_tool, tool

from . import noop_tools

__all__ = ["CHAIN", "FAN_OUT", "TOOLS", "Arm", "client_tools", "plain_asyncio", "server_tools"]

CHAIN: Final = 10
"""Steps one after the other."""
FAN_OUT: Final = 100
"""Steps at once, before one that joins them."""
TOOLS: Final = [f"{noop_tools.__name__}:{name}" for name in noop_tools.__all__]
"""The steps as a server's configuration names them."""

Run = Callable[[str], Awaitable[str]]


class Arm(NamedTuple):
    """Both graphs in one framework: the chain gives back its input, the fan-out the number of its steps."""

    chain: Run
    fan_out: Run


def server_tools(client: Client) -> Arm:
    """The steps run in a worker process of the server."""
    return _weft(client, server_tool("step", result=str), server_tool("join", result=str))


def client_tools(client: Client) -> Arm:
    """The steps run in this process, when the server asks for them."""
    return _weft(client, tool(noop_tools.step), tool(noop_tools.join))


def plain_asyncio() -> Arm:
    """The floor: nothing but coroutines and tasks."""

    async def chain(x: str) -> str:
        for _ in range(CHAIN):
            x = await noop_tools.step(x)
        return x

    async def fan_out(x: str) -> str:
        return await noop_tools.join(await asyncio.gather(*(noop_tools.step(x) for _ in range(FAN_OUT))))

    return Arm(chain, fan_out)


def _weft(client: Client, step: Callable[..., Any], join: Callable[..., Any]) -> Arm:
    @program
    def chain(x: str) -> str:
        for _ in range(CHAIN):
            x = step(x=x)
        return x

    @program
    def fan_out(x: str) -> str:
        result: str = join(parts=[step(x=x) for _ in range(FAN_OUT)])
        return result

    return Arm(chain.using(client).ainvoke, fan_out.using(client).ainvoke)
