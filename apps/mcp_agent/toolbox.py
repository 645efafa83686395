"""The tools of an MCP server, through the official SDK (the extra `weft[mcp]`)."""

from __future__ import annotations

import secrets
import shlex
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

if TYPE_CHECKING:
    from mcp import Client

__all__ = ["SAMPLE", "Offer", "Toolbox"]

SAMPLE: Final = shlex.join([sys.executable, "-P", "-m", "weft.apps.mcp_agent.sample_server"])
"""The command of the server that comes with this app."""


@dataclass(frozen=True)
class Offer:
    """A tool that a server offers."""

    name: str
    purpose: str
    schema: dict[str, Any]
    """Of its arguments."""
    reads_only: bool
    """The server says that it changes nothing."""

    @property
    def only_text(self) -> str:
        """The name of its only argument, if that is a text; empty otherwise."""
        properties = self.schema.get("properties", {})
        (name,) = properties if len(properties) == 1 else ("",)
        return name if name and properties[name].get("type") == "string" else ""


class Toolbox:
    """A connection to an MCP server; `server` is its URL or the command that starts it.

    Raises ImportError if the SDK is not installed.
    """

    opened: ClassVar[dict[str, Toolbox]] = {}

    def __init__(self, server: str) -> None:
        self.id = secrets.token_hex(4)
        self.offers: list[Offer] = []
        self._server = server
        self._stack = AsyncExitStack()
        self._client: Client

    async def __aenter__(self) -> Self:
        try:
            from mcp import Client, StdioServerParameters, stdio_client
        except ImportError as problem:
            raise ImportError(f"tools of MCP servers need {problem.name}; pip install 'weft[mcp]'") from None
        if self._server.startswith(("http://", "https://")):
            client = Client(self._server)
        else:
            command, *arguments = shlex.split(self._server)
            parameters = StdioServerParameters(command=command, args=arguments)
            # The SDK would take what was sys.stderr at its import, which need not be a file any more.
            client = Client(stdio_client(parameters, errlog=sys.__stderr__ or sys.stderr))
        self._client = await self._stack.enter_async_context(client)
        for tool in (await self._client.list_tools()).tools:
            purpose = " ".join((tool.description or "").split())
            reads_only = bool(tool.annotations and tool.annotations.read_only_hint)
            self.offers.append(Offer(tool.name, purpose, tool.input_schema, reads_only))
        self.opened[self.id] = self
        return self

    async def __aexit__(self, *problem: object) -> None:
        self.opened.pop(self.id, None)
        await self._stack.aclose()

    async def call(self, name: str, arguments: dict[str, Any]) -> str:
        """What the tool says, or that it has failed."""
        result = await self._client.call_tool(name, arguments)
        text = "\n".join(block.text for block in result.content if block.type == "text")
        return f"error: {text}" if result.is_error else text
