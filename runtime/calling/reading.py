"""What a model writes, as it comes, taken apart: text, and calls of tools in the forms that models know.

`<tool_call>{…}</tool_call>` (Hermes, Qwen), one JSON object with the name of a tool (Llama), or a list of
them (Mistral).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import Any, Final, NamedTuple

from weft.graph import schema as json_schema

__all__ = ["CALL_BEGIN", "CALL_END", "CallReader", "Called", "Said", "call_text"]

CALL_BEGIN: Final = "<tool_call>"
CALL_END: Final = "</tool_call>"

_MISTRAL: Final = "[TOOL_CALLS]"
_BARE: Final = ("{", "[{", _MISTRAL)  # how a text begins that is all calls


class Called(NamedTuple):
    """A call of a tool."""

    name: str
    arguments: Any  # an object if it is as it should be


Said = str | Called
"""A piece of text, or a call."""


def call_text(name: str, arguments: Any) -> str:
    """A call in the form of Hermes."""
    call = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"{CALL_BEGIN}\n{call}\n{CALL_END}"


class CallReader:
    """Reads one text, which may be content, calls, or content and then calls.

    Text is held back only while it may be the beginning of a call, or the white space before one, which
    belongs to the form of the call, as does the one behind it. With `names`, only what calls one of these
    with an object is a call, and all else is text; without, whatever has the form of a call.
    """

    def __init__(self, names: Collection[str] | None = None) -> None:
        self._names = names
        self._held = ""
        self._begun = False  # with content
        self.called = False
        """Whether there was a call."""

    def push(self, text: str) -> list[Said]:
        """Take the next piece."""
        self._held += text
        return list(self._read())

    def close(self) -> list[Said]:
        """The text is complete."""
        held, self._held = self._held, ""
        text = held.strip().removeprefix(CALL_BEGIN).removesuffix(CALL_END).removeprefix(_MISTRAL)
        calls = None if self._begun and not held.lstrip().startswith(CALL_BEGIN) else self._parse(text)
        return [*self._content(held)] if calls is None else [*calls]

    def _read(self) -> Iterator[Said]:
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
            yield from calls or ()

    def _may_be_bare(self) -> bool:
        """Whether all of the text may be JSON that is a call."""
        text = self._held.lstrip()
        fits = any(text.startswith(mark) or mark.startswith(text) for mark in _BARE)
        return fits and not (self._begun or self.called)

    def _content(self, text: str) -> list[str]:
        """Text; white space alone, behind a call, is none."""
        if not text or (not text.strip() and self.called):
            return []
        self._begun = True
        return [text]

    def _parse(self, text: str) -> list[Called] | None:
        """The calls that the text is; None if it is none."""
        try:
            value = json_schema.loads_safe(text)
        except ValueError:
            return None
        values = value if isinstance(value, list) else [value]
        calls = [call for item in values if (call := self._call_of(item)) is not None]
        if not calls or len(calls) < len(values):
            return None
        self.called = True
        return calls

    def _call_of(self, value: Any) -> Called | None:
        match value:
            case {"name": str(name), "arguments": arguments} | {"name": str(name), "parameters": arguments}:
                if self._names is None or (name in self._names and isinstance(arguments, dict)):
                    return Called(name, arguments)
        return None


def _overlap(text: str, mark: str) -> int:
    """How many characters at the end of the text may be the beginning of the mark."""
    return next((n for n in range(len(mark) - 1, 0, -1) if text.endswith(mark[:n])), 0)
