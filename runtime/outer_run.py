"""The run that code in a tool worker works for: what it starts on the server belongs to that run."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

__all__ = ["OUTER", "OuterRun"]


@dataclass(frozen=True, slots=True)
class OuterRun:
    """A run one of whose primitives is a tool that runs in this process, or a program."""

    id: str
    namespace: str
    priority: int
    write: Callable[[str], None] | None = None
    """Takes further text of the result, in any thread; None: nobody wants it before its end."""


OUTER: Final[ContextVar[OuterRun | None]] = ContextVar("weft_outer_run", default=None)
"""It is there where a tool or a program is called, and in what is called from there."""
