"""Conversations as the messages of OpenAI's API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, NotRequired, cast, get_args

from pydantic import BeforeValidator
from typing_extensions import TypedDict  # before Python 3.12 pydantic takes no other

from weft.graph import schema as json_schema
from weft.graph.prompt import MessageCall

from .errors import TraceError
from .location import located
from .messages import Entry
from .var import Var

__all__ = ["Message", "entry_of", "message_of"]

_Speaker = Literal["system", "user", "assistant", "tool"]
_SPEAKERS: Final = get_args(_Speaker)


class _Function(TypedDict):
    name: str
    arguments: str  # JSON text


class _Call(TypedDict):
    id: str
    type: Literal["function"]
    function: _Function


class Message(TypedDict):
    """A turn of a conversation, as in OpenAI's API."""

    role: _Speaker
    content: Annotated[str, BeforeValidator(lambda given: "" if given is None else given)]
    tool_calls: NotRequired[Annotated[list[_Call], BeforeValidator(lambda given: given or [])]]
    tool_call_id: NotRequired[str]


def message_of(entry: Entry) -> Message:
    """A turn as a message."""
    if entry.role == "tool":
        return Message(role="tool", content=entry.text, tool_call_id=entry.call)
    role = cast("_Speaker", "assistant" if entry.role == "call" else entry.role)
    if not entry.calls:
        return Message(role=role, content=entry.text)
    return Message(role=role, content=entry.text, tool_calls=[_call(call) for call in entry.calls])


def entry_of(message: object) -> Entry:
    """A message as a turn. Raises TraceError for what is none."""
    match message:
        case {"role": "assistant", "tool_calls": [_, *_] as calls, **rest}:
            return Entry("assistant", _content(rest.get("content") or ""), tuple(map(_made, calls)))
        case {"role": "tool", "tool_call_id": str(call), "content": content}:
            return Entry("tool", _content(content), call=call)
        case {"role": "tool"}:
            raise TraceError(
                located("a message of a tool has 'tool_call_id', the id of a call, and 'content'")
            )
        case {"role": role, "content": content} if role in _SPEAKERS:
            return Entry(role, _content(content))
        case {"role": role} if role not in _SPEAKERS:
            known = ", ".join(map(repr, _SPEAKERS))
            raise TraceError(located(f"there is no role {role!r}; known: {known}"))
        case _:
            raise TraceError(located(f"a message is a dict with 'role' and 'content', not {_shown(message)}"))


def _content(content: object) -> str:
    if not isinstance(content, (str, Var)):
        kind = type(content).__name__
        raise TraceError(located(f"the content of a message must be a text, not {kind}"))
    return str(content)


def _call(call: MessageCall) -> _Call:
    return _Call(id=call.id, type="function", function=_Function(name=call.name, arguments=call.arguments))


def _made(call: object) -> MessageCall:
    match call:
        case {"id": str(id), "function": {"name": str(name), "arguments": str(arguments)}} if _is_object(
            arguments
        ):
            return MessageCall(id, name, arguments)
    raise TraceError(
        located(
            'a call is {"id": …, "type": "function", "function": {"name": …, "arguments": …}}, '
            f"with the JSON text of an object as its arguments, not {call!r}"
        )
    )


def _is_object(text: str) -> bool:
    try:
        value: Any = json_schema.loads_safe(text)
    except ValueError:
        return False
    return isinstance(value, dict)


def _shown(message: object) -> str:
    return f"one with {', '.join(map(repr, message))}" if isinstance(message, Mapping) else repr(message)
