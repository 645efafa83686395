"""Prompts of `gen` and `select` as messages of the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from weft.graph.ir import Value
from weft.graph.prompt import Message, MessageCall, Role, Slot

from .errors import TraceError
from .location import located
from .slots import Slots
from .var import Var

if TYPE_CHECKING:
    from .trace import Trace

__all__ = ["Conversation", "Entry", "Prompt", "messages_of", "turns_of"]


@dataclass(eq=False)
class Entry:
    """One turn of a conversation; what it calls is known once it has been written."""

    role: Role
    text: str
    """With the marks of the `Var`s in it."""
    calls: tuple[MessageCall, ...] = ()
    written: str = ""
    """The mark of all of the turn, calls included, as the model wrote it."""
    call: str = ""
    """Of a tool: the id of the call that it answers."""


class Conversation:
    """The turns of a conversation so far, and the tools that the model knows in it."""

    turns: list[Entry]
    tools: tuple[Entry, ...] = ()


Prompt = str | Var[str] | Conversation
"""One message of the user, or a whole conversation (a `Context`)."""


def turns_of(prompt: Prompt, system: str | None, raw: bool) -> Sequence[Entry]:
    """The turns that a prompt stands for. Raises TraceError for arguments that contradict one another."""
    if isinstance(prompt, Conversation):
        if system is not None or raw:
            raise TraceError(located("system and raw go with a text prompt; a Context says them itself"))
        return [*prompt.tools, *prompt.turns]
    if not isinstance(prompt, (str, Var)):
        hint = "; write messages as Context(messages=…)" if isinstance(prompt, list) else ""
        kind = type(prompt).__name__
        raise TraceError(located(f"a prompt must be a string, a Var or a Context, not a {kind}{hint}"))
    if raw and system is not None:
        raise TraceError(located("raw text has no system message; write it into the prompt"))
    if raw:
        return [Entry("raw", str(prompt))]
    head = [] if system is None else [Entry("system", str(system))]
    return [*head, Entry("user", str(prompt))]


def messages_of(turns: Sequence[Entry], trace: Trace) -> tuple[tuple[Message, ...], dict[str, Value]]:
    """The messages, and the operands of their slots.

    Raises TraceError if there is nothing that a model could go on from: a chat template writes something
    around the emptiest message, but nothing is added to plain text.
    """
    slots = Slots(trace)
    messages = tuple(_message(entry, slots) for entry in turns)
    if all(message.role == "raw" and not message.parts for message in messages):
        raise TraceError(located("the prompt is empty"))
    return messages, slots.args


def _message(entry: Entry, slots: Slots) -> Message:
    written = "".join(part.name for part in slots.parts(entry.written) if isinstance(part, Slot))
    return Message(entry.role, slots.parts(entry.text), entry.calls, written, entry.call)
