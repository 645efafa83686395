"""An agent whose tools come from an MCP server."""

from __future__ import annotations

from .program import agent

__all__ = ["PROGRAM", "agent"]

PROGRAM = agent
