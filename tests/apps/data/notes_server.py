"""An MCP server with a tool of two numbers, one that writes, and one that fails."""

from __future__ import annotations

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations

server = MCPServer("notes", log_level="CRITICAL")
notes: list[str] = []


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def add(a: int, b: int) -> int:
    """adds
    two numbers"""
    return a + b


@server.tool()
def remember(text: str) -> str:
    notes.append(text)
    return f"{len(notes)} notes"


@server.tool()
def fail() -> str:
    raise ToolError("out of paper")


if __name__ == "__main__":
    server.run()
