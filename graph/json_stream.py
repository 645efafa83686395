"""Reading JSON while it is being written: every item and field is known as soon as it closes.

feed('["a", {"b": 1')   ->   (0,) = "a"
feed(', "c": [2]}]')    ->   (1, "b") = 1,  (1, "c", 0) = 2,  (1, "c") = [2],  (1,) = {…},  () = […]
"""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

from .ops.optimized import Key

__all__ = ["Closed", "JsonStream"]

_SPACE: Final = frozenset(" \t\n\r")


class Closed(NamedTuple):
    """A part of the JSON that is complete."""

    path: tuple[Key, ...]
    text: str

    def value(self) -> Any:
        """The part as Python data. Raises ValueError if it is not JSON."""
        return json.loads(self.text)


class _Open:
    """A list or an object whose end has not come."""

    __slots__ = ("is_list", "key", "start")

    def __init__(self, start: int, *, is_list: bool) -> None:
        self.start = start
        self.is_list = is_list
        self.key: Key | None = 0 if is_list else None  # of the part that is written now


class JsonStream:
    """Takes the pieces of one JSON text. What is no JSON closes nothing more; it is not an error here."""

    def __init__(self) -> None:
        self._text = ""
        self._read = 0
        self._open: list[_Open] = []
        self._scalar: int | None = None  # where the string, number or word began that is written now
        self._escaped = False
        self._ended = False

    def feed(self, piece: str) -> list[Closed]:
        """What closes within the next piece of the text, inner parts before those around them."""
        self._text += piece
        closed: list[Closed] = []
        while self._read < len(self._text) and not self._ended:
            self._take(self._text[self._read], closed)
            self._read += 1
        return closed

    def _take(self, char: str, closed: list[Closed]) -> None:
        if self._scalar is not None and self._text[self._scalar] == '"':
            self._take_in_string(char, closed)
            return
        if self._scalar is not None and (char in ",]}" or char in _SPACE):
            self._close(self._scalar, self._read, closed)
        match char:
            case "[" | "{":
                self._open.append(_Open(self._read, is_list=char == "["))
            case "]" | "}":
                self._close_container(closed)
            case ",":
                self._next()
            case ":":
                pass
            case _ if char not in _SPACE and self._scalar is None:
                self._scalar = self._read

    def _take_in_string(self, char: str, closed: list[Closed]) -> None:
        assert self._scalar is not None
        if self._escaped:
            self._escaped = False
        elif char == "\\":
            self._escaped = True
        elif char == '"':
            self._close(self._scalar, self._read + 1, closed)

    def _next(self) -> None:
        if not self._open:
            self._ended = True
            return
        around = self._open[-1]
        around.key = around.key + 1 if isinstance(around.key, int) else None

    def _close_container(self, closed: list[Closed]) -> None:
        if not self._open:
            self._ended = True
            return
        self._close(self._open.pop().start, self._read + 1, closed)

    def _close(self, start: int, end: int, closed: list[Closed]) -> None:
        """The part from `start` to `end` is complete: a value, or the key of a field."""
        self._scalar = None
        text = self._text[start:end]
        around = self._open[-1] if self._open else None
        if around is not None and not around.is_list and around.key is None:
            around.key = _key(text)
            self._ended = around.key is None
            return
        path = tuple(place.key for place in self._open if place.key is not None)
        closed.append(Closed(path, text))
        self._ended = not self._open


def _key(text: str) -> str | None:
    """The name of a field, or None for what cannot be one."""
    try:
        key = json.loads(text)
    except ValueError:
        return None
    return key if isinstance(key, str) else None
