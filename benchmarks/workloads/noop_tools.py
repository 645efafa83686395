"""Tools that do nothing, for a server's worker; it needs nothing but this file to import them."""

from __future__ import annotations

__all__ = ["join", "step"]


async def step(x: str) -> str:
    """Give back what it is given."""
    return x


async def join(parts: list[str]) -> str:
    """How many parts there are."""
    return str(len(parts))
