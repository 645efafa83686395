"""Functions as graphs, and types of values for them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from typing_extensions import TypedDict

from weft import (
    program,
)
from weft.graph.verify import verify


@dataclass
class State:
    text: str
    turn: int = 0
    notes: list[str] = field(default_factory=list)


class Typed(TypedDict):
    name: str
    age: int


class Pair(NamedTuple):
    left: str
    right: str


def text_of(fn: Callable[..., Any], **static: Any) -> str:
    """The graph of a function as text, without source lines."""
    graph = program(fn).graph(**static)
    verify(graph)
    return re.sub(r"  # \S+:\d+", "", str(graph))


def last(fn: Callable[..., Any]) -> Any:
    """The operation of the last node."""
    return program(fn).graph().nodes[-1].op
