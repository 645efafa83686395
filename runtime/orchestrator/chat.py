"""Chat templates as the graph's passes use them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from weft.graph import schema as json_schema
from weft.graph.prompt import Fixed, Message, Piece, Slot
from weft.runtime.calling.reading import CALL_BEGIN, CALL_END
from weft.runtime.llm import chat
from weft.runtime.llm.pieces import TextPiece
from weft.runtime.llm.toolless import begins_calls, knows_tools, with_tools_described, writes_ids

__all__ = ["TemplateRenderer"]

_BEGIN: Final = TextPiece(f"{CALL_BEGIN}\n", trusted=True)
_END: Final = TextPiece(f"\n{CALL_END}", trusted=True)


class TemplateRenderer:
    """A model's chat template as a `weft.graph.prompt.ChatRenderer`; `text` is its JSON form.

    Where a template strips only some white space from a slot (newlines, say), all of it is stripped: slots
    know no finer measure. What conversations spell like `control_tokens` is plain text.
    """

    def __init__(self, text: str, control_tokens: Collection[str] = ()) -> None:
        """Raises ValueError when `text` is no template."""
        try:
            self._template = chat.ChatTemplate.from_json(text)
        except (TypeError, ValueError) as problem:
            raise ValueError(f"malformed chat template: {problem}") from None
        self._control_tokens = control_tokens
        self._knows_tools = knows_tools(self._template.source)
        self._begins_calls = begins_calls(self._template.source)
        self._writes_ids = writes_ids(self._template.source)

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> tuple[Piece, ...]:
        """The assembled prompt. Raises ValueError with the template's own words if it refuses.

        A turn that calls tools stands there as the model wrote it, unless the template adds ids to calls, or
        does not take calls as text.
        """
        begins = bool(messages) and messages[-1].role == "call" and not messages[-1].written
        said = messages[:-1] if begins else messages
        try:
            pieces = self._rendered(said, add_generation_prompt)
        except chat.ChatTemplateError as problem:
            raise ValueError(str(problem)) from None
        begun = (_BEGIN,) if begins and self._begins_calls else ()
        return tuple(_piece(piece) for piece in (*pieces, *begun))

    def _rendered(self, messages: Sequence[Message], prompt: bool) -> tuple[chat.Piece, ...]:
        if not any(message.written for message in messages) or self._writes_ids:
            return self._in_form(messages, prompt, as_written=False)
        try:
            return self._in_form(messages, prompt, as_written=True)
        except chat.ChatTemplateError:
            return self._in_form(messages, prompt, as_written=False)

    def _in_form(
        self, messages: Sequence[Message], prompt: bool, *, as_written: bool
    ) -> tuple[chat.Piece, ...]:
        tools = [tool for message in messages if message.role == "tools" for tool in _tools_of(message)]
        names = {call.id: call.name for message in messages for call in message.calls}
        turns = [
            self._turn(message, names, as_written=as_written)
            for message in messages
            if message.role != "tools"
        ]
        if not self._knows_tools:
            turns, tools = with_tools_described(turns, tools), []
        return self._template.render(turns, prompt, tools=tools, control_tokens=self._control_tokens)

    def _turn(self, message: Message, names: Mapping[str, str], *, as_written: bool) -> chat.ChatMessage:
        whole = chat.Hole(message.written)
        if message.role == "call" and message.written and as_written and self._begins_calls:
            return chat.ChatMessage("assistant", (_BEGIN, whole, _END))
        if message.role == "assistant" and message.written and as_written:
            return chat.ChatMessage("assistant", (whole,))
        content = tuple(chat.Hole(part.name) if isinstance(part, Slot) else part for part in message.parts)
        role = "assistant" if message.role == "call" else message.role
        return chat.ChatMessage(role, content, _fields(message, names))


def _fields(message: Message, names: Mapping[str, str]) -> dict[str, Any]:
    """What a message says besides its content, as templates know it."""
    if message.role == "tool":
        name = names.get(message.call)
        return {"tool_call_id": message.call} | ({"name": name} if name else {})
    if not message.calls:
        return {}
    calls = [
        {
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": _object(call.arguments)},
        }
        for call in message.calls
    ]
    return {"tool_calls": calls}


def _tools_of(message: Message) -> list[Any]:
    """The functions that a message of the role `tools` says. Raises ChatTemplateError."""
    text = "".join(part for part in message.parts if isinstance(part, str))
    match _json(text):
        case [*tools] if all(_is_tool(tool) for tool in tools):
            return tools
    raise chat.ChatTemplateError("tools must be a list of functions as in OpenAI's API")


def _is_tool(tool: Any) -> bool:
    match tool:
        case {"type": "function", "function": {"name": str()}}:
            return True
    return False


def _object(text: str) -> dict[str, Any]:
    match _json(text):
        case dict(arguments):
            return arguments
    raise chat.ChatTemplateError("the arguments of a call must be the JSON text of an object")


def _json(text: str) -> Any:
    try:
        return json_schema.loads_safe(text)
    except ValueError:
        return None


def _piece(piece: chat.Piece) -> Piece:
    if isinstance(piece, chat.HolePiece):
        return Slot(piece.name, piece.strip)
    return Fixed(piece.text, piece.trusted)
