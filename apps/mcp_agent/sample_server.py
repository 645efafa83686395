"""An MCP server with two tools that only read: a search in the demo corpus, and a calculator.

python -P -m weft.apps.mcp_agent.sample_server
"""

from __future__ import annotations

from mcp.server import MCPServer
from mcp.types import ToolAnnotations

from weft.apps import calculator as arithmetic
from weft.apps.search_answer import offline

server = MCPServer("weft-sample", log_level="ERROR")
_READS_ONLY = ToolAnnotations(read_only_hint=True)


@server.tool(description="looks up facts", annotations=_READS_ONLY)
def search(query: str) -> str:
    """The passages that fit a query best."""
    return "\n".join(page["text"] for page in offline.search(query, 3)) or "No results."


@server.tool(description="computes an expression", annotations=_READS_ONLY)
def calculator(expression: str) -> str:
    """The value of an arithmetic expression."""
    return str(arithmetic.calculator(expression))


if __name__ == "__main__":
    server.run()
