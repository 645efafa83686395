"""Prompts as lists of segments: what the author wrote, and slots for values that are not known yet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

__all__ = [
    "ChatRenderer",
    "Fixed",
    "Message",
    "Part",
    "Piece",
    "Role",
    "Slot",
    "Strip",
    "merge_fixed",
    "slots",
]

Role = Literal["system", "user", "assistant", "raw"]
Strip = Literal["", "left", "right", "both"]


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of the operand called `name`; `strip` says which of its edges lose their white space."""

    name: str
    strip: Strip = ""


Part = str | Slot
"""A segment of a message as its author wrote it."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation. The role `raw` is text that no chat template touches."""

    role: Role
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Fixed:
    """A constant segment of an assembled prompt.

    Only in trusted text do the spellings of special tokens (``<|end|>``) become special tokens.
    """

    text: str
    trusted: bool = False


Piece = Fixed | Slot
"""A segment of an assembled prompt, as a model reads it."""


class ChatRenderer(Protocol):
    """A model's chat template."""

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> tuple[Piece, ...]:
        """The assembled prompt. Raises ValueError with the template's own words if it refuses."""
        ...


def slots(parts: Iterable[Part | Piece]) -> tuple[str, ...]:
    """The operand names that the segments mention, each once, in order."""
    return tuple(dict.fromkeys(part.name for part in parts if isinstance(part, Slot)))


def merge_fixed(pieces: Iterable[Piece]) -> tuple[Piece, ...]:
    """Join neighbouring constants of equal trust and drop empty ones."""
    merged: list[Piece] = []
    for piece in pieces:
        last = merged[-1] if merged else None
        if isinstance(piece, Fixed) and isinstance(last, Fixed) and piece.trusted == last.trusted:
            merged[-1] = Fixed(last.text + piece.text, last.trusted)
        elif not (isinstance(piece, Fixed) and not piece.text):
            merged.append(piece)
    return tuple(merged)
