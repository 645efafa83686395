"""Prompts of `gen` and `select` as messages of the graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from weft.graph.ir import Value
from weft.graph.prompt import Message, Role

from .errors import TraceError
from .location import located
from .slots import Slots
from .var import Var

if TYPE_CHECKING:
    from .trace import Trace

__all__ = ["Conversation", "Prompt", "Turn", "messages_of", "turns_of"]

Turn = tuple[Role, str]
"""Who speaks, and the text with the marks of the `Var`s in it."""


class Conversation:
    """The turns of a conversation so far."""

    turns: list[Turn]


Prompt = str | Var[str] | Conversation
"""One message of the user, or a whole conversation (a `Context`)."""


def turns_of(prompt: Prompt, system: str | None, raw: bool) -> Sequence[Turn]:
    """The turns that a prompt stands for. Raises TraceError for arguments that contradict one another."""
    if isinstance(prompt, Conversation):
        if system is not None or raw:
            raise TraceError(located("system and raw go with a text prompt; a Context says them itself"))
        return prompt.turns
    if not isinstance(prompt, (str, Var)):
        hint = "; write messages as Context(messages=…)" if isinstance(prompt, list) else ""
        kind = type(prompt).__name__
        raise TraceError(located(f"a prompt must be a string, a Var or a Context, not a {kind}{hint}"))
    if raw and system is not None:
        raise TraceError(located("raw text has no system message; write it into the prompt"))
    if raw:
        return [("raw", str(prompt))]
    head: list[Turn] = [] if system is None else [("system", str(system))]
    return [*head, ("user", str(prompt))]


def messages_of(turns: Sequence[Turn], trace: Trace) -> tuple[tuple[Message, ...], dict[str, Value]]:
    """The messages, and the operands of their slots. Raises TraceError for an empty prompt."""
    slots = Slots(trace)
    messages = tuple(Message(role, slots.parts(text)) for role, text in turns)
    if not any(message.parts for message in messages):
        raise TraceError(located("the prompt is empty"))
    return messages, slots.args
