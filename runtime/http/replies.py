"""What a model writes, as it comes, turned into a message: its content and its calls of tools.

Every reader takes pieces of text and gives deltas as OpenAI's streams hold them; all deltas together make up
the message. So streamed and whole answers are read by the same code.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Iterator
from typing import Any, Final, Protocol

from weft.runtime.calling.reading import CallReader, Said

from .tools import Toolbox

__all__ = ["Delta", "Reader", "message_of", "reader_for"]

Delta = dict[str, Any]

_HEAD: Final = re.compile(r'\{"name": ("(?:[^"\\]|\\.)*"), "arguments": ')


class Reader(Protocol):
    """Reads one answer."""

    def push(self, text: str) -> list[Delta]:
        """Take the next piece."""

    def close(self) -> list[Delta]:
        """The text is complete."""

    @property
    def called(self) -> bool:
        """Whether the answer calls a tool."""


def reader_for(tools: Toolbox) -> Reader:
    """The reader of answers that may call these tools."""
    match tools.mode:
        case "required":
            return _CallReader()
        case "auto":
            return _MixedReader(tools)
        case _:
            return _TextReader()


def message_of(deltas: Iterable[Delta]) -> dict[str, Any]:
    """The whole message that the deltas of a reader make up."""
    content: list[str] = []
    calls: list[dict[str, Any]] = []
    for delta in deltas:
        content.append(delta.get("content", ""))
        for piece in delta.get("tool_calls", ()):
            if "id" in piece:
                calls.append({"id": piece["id"], "type": "function", "function": dict(piece["function"])})
            else:
                calls[-1]["function"]["arguments"] += piece["function"]["arguments"]
    text = "".join(content)
    message: dict[str, Any] = {"role": "assistant", "content": text if text or not calls else None}
    return message | ({"tool_calls": calls} if calls else {})


class _TextReader:
    """All of the answer is content."""

    called = False

    def push(self, text: str) -> list[Delta]:
        return [{"content": text}] if text else []

    def close(self) -> list[Delta]:
        return []


class _CallReader:
    """All of the answer is one call, in the form that `Toolbox.constraint` forces; arguments are streamed."""

    called = True

    def __init__(self) -> None:
        self._head = ""
        self._open = False
        self._held = ""  # the last character of all closes the call, not its arguments

    def push(self, text: str) -> list[Delta]:
        if self._open:
            return self._arguments(text)
        self._head += text
        match = _HEAD.match(self._head)
        if match is None:
            return []
        self._open = True
        return [_call(0, json.loads(match[1]), ""), *self._arguments(self._head[match.end() :])]

    def close(self) -> list[Delta]:
        return []

    def _arguments(self, text: str) -> list[Delta]:
        text = self._held + text
        self._held = text[-1:]
        return [_arguments(0, text[:-1])] if text[:-1] else []


class _MixedReader:
    """The answer may be content, calls, or content and then calls."""

    def __init__(self, tools: Toolbox) -> None:
        self._reader = CallReader(tools.names)
        self._parallel = tools.parallel
        self._calls = 0

    @property
    def called(self) -> bool:
        return self._reader.called

    def push(self, text: str) -> list[Delta]:
        return list(self._deltas(self._reader.push(text)))

    def close(self) -> list[Delta]:
        return list(self._deltas(self._reader.close()))

    def _deltas(self, said: Iterable[Said]) -> Iterator[Delta]:
        for piece in said:
            if isinstance(piece, str):
                yield {"content": piece}
            elif self._parallel or not self._calls:
                self._calls += 1
                arguments = json.dumps(piece.arguments, ensure_ascii=False)
                yield _call(self._calls - 1, piece.name, arguments)


def _call(index: int, name: str, arguments: str) -> Delta:
    """The first delta of a call. Its id is short because Mistral's template takes no other."""
    called = {"name": name, "arguments": arguments}
    return {
        "tool_calls": [
            {"index": index, "id": secrets.token_hex(5)[:9], "type": "function", "function": called}
        ]
    }


def _arguments(index: int, text: str) -> Delta:
    return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}
