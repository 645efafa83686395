"""The marks that formatting a `Var` leaves in a string, until the string is cut into segments.

A mark is `OPEN words nonce ":" number CLOSE`, where the delimiters are private-use characters and the nonce
is drawn at random for every trace. So no data can forge one, and a mark that was damaged (by slicing or
changing case) or that belongs to another trace is found out. The words are for people who print a `Var`.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from typing import Final

__all__ = ["MarkerError", "has_marks", "mark", "new_nonce", "pieces", "repr_tag"]

_OPEN: Final = "\U0010f6f0"
_CLOSE: Final = "\U0010f6f1"
_WORDS: Final = "a Var, whose value only the run will know, "
_MARK: Final = re.compile(f"{_OPEN}{_WORDS}([0-9a-z]+):([0-9]+){_CLOSE}")
_REPR: Final = "a value of trace "


class MarkerError(ValueError):
    """A string holds a mark that is not of this trace, or what is left of one."""


def new_nonce() -> str:
    """What tells the marks of one trace from those of all others; changing its case damages it."""
    return "w" + secrets.token_hex(8)


def mark(nonce: str, number: int) -> str:
    """The mark of value `number` of a trace."""
    return f"{_OPEN}{_WORDS}{nonce}:{number}{_CLOSE}"


def repr_tag(nonce: str) -> str:
    """What the `repr` of a `Var` holds, so that it is recognized in a prompt."""
    return _REPR + nonce


def has_marks(text: str) -> bool:
    """Whether the string has to be cut, or refused."""
    return _OPEN in text or _CLOSE in text or _REPR in text


def pieces(text: str, nonce: str) -> Iterator[str | int]:
    """The constant segments and the numbers of the marks between them, in order. Raises MarkerError."""
    end = 0
    for found in _MARK.finditer(text):
        if found.start() > end:
            yield _constant(text[end : found.start()], nonce)
        if found[1] != nonce:
            raise MarkerError(
                "the text holds a value of another trace: a value lives in one run of its program"
            )
        yield int(found[2])
        end = found.end()
    if end < len(text):
        yield _constant(text[end:], nonce)


def _constant(text: str, nonce: str) -> str:
    if _OPEN in text or _CLOSE in text:
        raise MarkerError(
            "the place of a value in the text was damaged by slicing, splitting or changing case, or the "
            "text is data that holds the characters which weft keeps for such places; format values last"
        )
    if repr_tag(nonce) in text:
        raise MarkerError(
            "the text holds the repr() of a value: write {x}, not {x!r}; in place of a "
            "list of values, '\\n'.join(f'{x}' for x in xs)"
        )
    return text
