"""Prompts as lists of segments: what the author wrote, and slots for values that are not known yet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

__all__ = [
    "ChatRenderer",
    "Fixed",
    "Message",
    "MessageCall",
    "Part",
    "Piece",
    "Role",
    "Slot",
    "Strip",
    "merge_fixed",
    "slots",
]

Role = Literal["tools", "system", "user", "assistant", "call", "tool", "raw"]
"""Who speaks.

tools: nobody; the functions that the model may call, as the JSON text of a list. call: the assistant, in a
turn that is one call and nothing else, written as `{"name": …, "arguments": …}`; as the last message, and
not written yet, it has the model begin one. raw: nobody; text that no chat template touches.
"""
Strip = Literal["", "left", "right", "both", "escaped"]


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of the operand called `name`; `strip` says which of its edges lose their white space.

    What is `escaped` stands in the string of a JSON text.
    """

    name: str
    strip: Strip = ""


Part = str | Slot
"""A segment of a message as its author wrote it."""


@dataclass(frozen=True, slots=True)
class MessageCall:
    """A call of a tool, as a message of the assistant makes it."""

    id: str
    name: str
    arguments: str = "{}"  # JSON text


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation."""

    role: Role
    parts: tuple[Part, ...]
    calls: tuple[MessageCall, ...] = ()
    """What the assistant calls besides what it says."""
    written: str = ""
    """The slot of all of the turn, calls included, as the model wrote it; empty for other messages."""
    call: str = ""
    """Of a tool: the id of the call that it answers."""

    @property
    def slots(self) -> tuple[str, ...]:
        """The operand names that the message mentions, each once, in order."""
        return slots((*self.parts, Slot(self.written)) if self.written else self.parts)


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
