"""What a worker hears of the text that a model writes, before the event loop is woken for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from weft.graph.json_stream import JsonStream
from weft.runtime.llm.requests import Delta, Event

from .base import Stream

__all__ = ["Sift"]


class Sift:
    """Takes the events of one request on the engine's thread, and posts those that somebody waits for.

    A step of a small model takes about as long as waking the event loop and sending a message, so text that
    nobody takes by the token must not leave by the token.
    """

    def __init__(self, stream: Stream, post: Callable[[Sequence[Event]], None]) -> None:
        self.generated = 0
        """Tokens so far; complete once the last event has been posted."""
        self._stream = stream
        self._post = post
        self._json = JsonStream()
        self._held = ""

    def __call__(self, events: Sequence[Event]) -> None:
        """Take the events of a step."""
        wanted: list[Event] = []
        for event in events:
            if not isinstance(event, Delta):
                wanted.append(event)
                continue
            self.generated += len(event.ids)
            text = self._sift(event.text)
            if text:
                wanted.append(Delta(text, event.ids))
        if wanted:
            self._post(wanted)

    def _sift(self, text: str) -> str:
        """What is to be passed on now that this has been written."""
        match self._stream:
            case Stream.NONE:
                return ""
            case Stream.TEXT:
                return text
            case Stream.PARTS:
                self._held += text
                if not self._json.feed(text):
                    return ""
                held, self._held = self._held, ""
                return held
