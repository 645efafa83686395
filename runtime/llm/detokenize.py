"""Turns the tokens of one decode into text as they arrive, and ends it at its stop strings.

Tokens are bytes here (`Tokenizer.token_bytes`), decoded by an incremental UTF-8 decoder, so that a push costs
the same however long the text has grown.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass

from .tokenizer import Tokenizer

__all__ = ["FinalText", "StopScan", "TextStream"]


@dataclass(frozen=True, slots=True)
class FinalText:
    """The whole text of a finished decode. Law: `text == tokenizer.decode_continuation(ids) + tail`."""

    text: str
    """Without the stop string and all that follows it, and without an incomplete last character."""
    ids: tuple[int, ...]
    """The longest prefix of the pushed ids that decodes to a prefix of `text`."""
    tail: str
    """What of `text` lies beyond `ids`: the beginning of a token that a stop string cut."""
    delta: str
    """The last piece to emit: all pushes and it make up `text`."""


class StopScan:
    """Finds stop strings in a text that arrives in pieces.

    What `push` returns never holds a part of a stop string that may still complete. Of several stop strings
    the one that completes first ends the text; of those that complete at the same character, the one that
    began first.
    """

    stopped: bool
    """Whether a stop string has completed; what is pushed afterwards is ignored."""
    held: str
    """What may be the beginning of a stop string; if nothing follows, it belongs to the text."""

    def __init__(self, stop: tuple[str, ...]) -> None:
        self.stopped = False
        self.held = ""
        self._stop = stop

    def push(self, text: str) -> str:
        """Append a piece and return the text that is safe to show."""
        if self.stopped:
            return ""
        self.held += text
        cut = self._find_stop()
        self.stopped = cut is not None
        emit = self.held[: len(self.held) - self._at_risk() if cut is None else cut]
        self.held = "" if self.stopped else self.held[len(emit) :]
        return emit

    def _find_stop(self) -> int | None:
        """Return where in the held text the first completed stop string begins."""
        found = [(begin + len(stop), begin) for stop in self._stop if (begin := self.held.find(stop)) >= 0]
        return min(found)[1] if found else None

    def _at_risk(self) -> int:
        """Return the length of the longest end of the held text that begins a stop string."""
        longest = min(len(self.held), max(map(len, self._stop), default=1) - 1)
        return next((n for n in range(longest, 0, -1) if self._begins_stop(self.held[-n:])), 0)

    def _begins_stop(self, text: str) -> bool:
        return any(stop.startswith(text) for stop in self._stop)


class TextStream:
    """The text of one decode that continues a prompt: push tokens, get text that is safe to show.

    What `push` returns never ends within a character; stop strings end the text as in `StopScan`. Bytes that
    can be no UTF-8 become U+FFFD.
    """

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...]) -> None:
        self._tokenizer = tokenizer
        self._scan = StopScan(stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._ids: list[int] = []
        self._ends: list[int | None] = []  # characters decoded up to each token; None: within a character
        self._length = 0  # characters decoded
        self._emitted: list[str] = []

    @property
    def stopped(self) -> bool:
        """Whether a stop string has completed; tokens pushed afterwards are ignored."""
        return self._scan.stopped

    def push(self, token: int) -> str:
        """Append `token` and return the text that may be emitted now, often empty."""
        if self.stopped:
            return ""
        text = self._decoder.decode(self._tokenizer.token_bytes(token))
        self._length += len(text)
        self._ids.append(token)
        self._ends.append(None if self._decoder.getstate()[0] else self._length)
        emit = self._scan.push(text) if text else ""
        self._emitted.append(emit)
        return emit

    def finish(self) -> FinalText:
        """Return the final text. No token may be pushed afterwards."""
        text = "".join(self._emitted) + self._scan.held
        covered, characters = self._covered(len(text))
        return FinalText(text, tuple(self._ids[:covered]), text[characters:], self._scan.held)

    def _covered(self, length: int) -> tuple[int, int]:
        """Return how many tokens decode within the first `length` characters, and to how many characters."""
        for index in range(len(self._ends) - 1, -1, -1):
            end = self._ends[index]
            if end is not None and end <= length:
                return index + 1, end
        return 0, 0
