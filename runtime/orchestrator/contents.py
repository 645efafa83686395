"""Values as the scheduler sees them: digests of their text, worked out when somebody asks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from weft.graph.values import Datum, Json, TextValue, render
from weft.runtime.scheduler.prefixes import Block, Content, blocks_of

__all__ = ["content_of"]


def content_of(datum: Datum) -> Content | None:
    """What a value adds to a prompt, or None if it has no textual form."""
    return _Lazy(datum) if isinstance(datum, (TextValue, Json)) else None


class _Lazy:
    def __init__(self, datum: Datum) -> None:
        self._datum = datum

    @cached_property
    def blocks(self) -> Sequence[Block]:
        return blocks_of(render(self._datum))
