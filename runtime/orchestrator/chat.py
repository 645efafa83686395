"""Chat templates as the graph's passes use them."""

from __future__ import annotations

from collections.abc import Sequence

from weft.graph.prompt import Fixed, Message, Piece, Slot
from weft.runtime.llm import chat

__all__ = ["TemplateRenderer"]


class TemplateRenderer:
    """A model's chat template as a `weft.graph.prompt.ChatRenderer`; `text` is its JSON form.

    Where a template strips only some white space from a slot (newlines, say), all of it is stripped: slots
    know no finer measure.
    """

    def __init__(self, text: str) -> None:
        """Raises ValueError when `text` is no template."""
        try:
            self._template = chat.ChatTemplate.from_json(text)
        except (TypeError, ValueError) as problem:
            raise ValueError(f"malformed chat template: {problem}") from None

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> tuple[Piece, ...]:
        """The assembled prompt. Raises ValueError with the template's own words if it refuses."""
        turns = [_turn(message) for message in messages]
        try:
            pieces = self._template.render(turns, add_generation_prompt)
        except chat.ChatTemplateError as problem:
            raise ValueError(str(problem)) from None
        return tuple(_piece(piece) for piece in pieces)


def _turn(message: Message) -> chat.ChatMessage:
    parts = (chat.Hole(part.name) if isinstance(part, Slot) else part for part in message.parts)
    return chat.ChatMessage(message.role, tuple(parts))


def _piece(piece: chat.Piece) -> Piece:
    if isinstance(piece, chat.HolePiece):
        return Slot(piece.name, piece.strip)
    return Fixed(piece.text, piece.trusted)
