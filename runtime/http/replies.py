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

from .toolless import CALL_BEGIN, CALL_END
from .tools import Toolbox

__all__ = ["Delta", "Reader", "message_of", "reader_for"]

Delta = dict[str, Any]

_HEAD: Final = re.compile(r'\{"name": ("(?:[^"\\]|\\.)*"), "arguments": ')
_MISTRAL: Final = "[TOOL_CALLS]"
_BARE: Final = ("{", "[{", _MISTRAL)  # how an answer begins that is all calls


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
    """The answer may be content, calls, or content and then calls, in the forms that models are trained on.

    `<tool_call>{…}</tool_call>` (Hermes, Qwen), one JSON object with the name of a tool (Llama), or a list of
    them (Mistral). Text is held back only while it may be the beginning of a call, or the white space before
    one, which belongs to the form of the call, as does the one behind it.
    """

    def __init__(self, tools: Toolbox) -> None:
        self._tools = tools
        self._held = ""
        self._begun = False  # with content
        self._calls = 0

    @property
    def called(self) -> bool:
        return self._calls > 0

    def push(self, text: str) -> list[Delta]:
        self._held += text
        return list(self._read())

    def close(self) -> list[Delta]:
        held, self._held = self._held, ""
        text = held.strip().removeprefix(CALL_BEGIN).removesuffix(CALL_END).removeprefix(_MISTRAL)
        calls = None if self._begun and not held.lstrip().startswith(CALL_BEGIN) else self._parse(text)
        if calls is not None:
            return [delta for call in calls for delta in self._add(*call)]
        return self._content(held)

    def _read(self) -> Iterator[Delta]:
        while self._held.strip() and not self._may_be_bare():
            before, mark, rest = self._held.partition(CALL_BEGIN)
            settled = before if mark else before[: len(before) - _overlap(before, CALL_BEGIN)]
            settled = settled.rstrip()
            if settled:
                self._held = self._held[len(settled) :]
                yield from self._content(settled)
            inner, end, after = rest.partition(CALL_END)
            if not end:
                return
            self._held = after
            calls = self._parse(inner)
            if calls is None:
                yield from self._content(before[len(settled) :] + mark + inner + end)
            for call in calls or ():
                yield from self._add(*call)

    def _may_be_bare(self) -> bool:
        """Whether all of the answer may be JSON that is a call."""
        text = self._held.lstrip()
        fits = any(text.startswith(mark) or mark.startswith(text) for mark in _BARE)
        return fits and not (self._begun or self._calls)

    def _content(self, text: str) -> list[Delta]:
        """Text of the answer; white space alone, behind a call, is none."""
        if not text or (not text.strip() and self._calls):
            return []
        self._begun = True
        return [{"content": text}]

    def _parse(self, text: str) -> list[tuple[str, str]] | None:
        """The calls that the text is; None if it is none of a known tool."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return None
        values = value if isinstance(value, list) else [value]
        calls = [call for item in values if (call := self._call_of(item)) is not None]
        return calls if calls and len(calls) == len(values) else None

    def _call_of(self, value: Any) -> tuple[str, str] | None:
        match value:
            case {"name": str(name), "arguments": arguments} | {"name": str(name), "parameters": arguments}:
                if name in self._tools.names and isinstance(arguments, dict):
                    return name, json.dumps(arguments, ensure_ascii=False)
        return None

    def _add(self, name: str, arguments: str) -> list[Delta]:
        if self._calls and not self._tools.parallel:
            return []
        self._calls += 1
        return [_call(self._calls - 1, name, arguments)]


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


def _overlap(text: str, mark: str) -> int:
    """How many characters at the end of the text may be the beginning of the mark."""
    return next((n for n in range(len(mark) - 1, 0, -1) if text.endswith(mark[:n])), 0)
