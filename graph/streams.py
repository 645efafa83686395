"""Texts that models are writing now, and who waits for parts of them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import NamedTuple

from .errors import EvaluationError
from .evaluate import evaluate, lift
from .ir import Node, Value
from .json_stream import Closed, JsonStream
from .ops.optimized import Element, Key
from .values import Datum, TextValue, plain

__all__ = ["Streams"]

_Path = tuple[Key, ...]


class _Place(NamedTuple):
    """A part of what a decode writes."""

    decode: int
    path: _Path


class Streams:
    """What is known of texts before they are complete. Pure."""

    def __init__(self) -> None:
        self._elements: dict[_Place, list[int]] = {}  # the nodes that are this part
        self._of: dict[int, _Place] = {}
        self._decodes: set[int] = set()
        self._reading: dict[int, JsonStream] = {}
        self._closed: dict[int, dict[_Path, Closed]] = {}  # by decode, in the order of closing
        self._released: dict[int, dict[_Path, Datum]] = {}  # what consumers have been given

    def fork(self) -> Streams:
        """The same elements in another run; nothing is being written there."""
        other = Streams()
        other._elements = {place: list(nodes) for place, nodes in self._elements.items()}
        other._of = dict(self._of)
        other._decodes = set(self._decodes)
        return other

    def add(self, node: Node) -> None:
        """Take note of a node that may be an element."""
        if isinstance(node.op, Element):
            place = _Place(node.args["text"].node, node.op.path)
            self._elements.setdefault(place, []).append(node.id)
            self._of[node.id] = place
            self._decodes.add(place.decode)

    def place(self, node: int) -> tuple[int, _Path] | None:
        """The decode and the path of an element."""
        return self._of.get(node)

    def follows(self, decode: int) -> bool:
        """Whether anybody waits for parts of what a decode writes."""
        return decode in self._decodes

    def begin(self, decode: int) -> None:
        """An attempt of a decode begins to write."""
        self._reading[decode] = JsonStream()
        self._closed[decode] = {}

    def write(self, decode: int, text: str) -> list[_Path]:
        """What the next piece of text closes; nothing for a decode that has not begun."""
        stream = self._reading.get(decode)
        if stream is None:
            return []
        closed = {part.path: part for part in stream.feed(text)}
        self._closed[decode].update(closed)
        return list(closed)

    def ended(self, decode: int, text: str) -> None:
        """A decode has written all. Raises EvaluationError if that is not what parts of it were given out.

        It can happen only where a decode that samples had to be repeated on another worker.
        """
        if not (self._reading or self._released):
            return
        self._reading.pop(decode, None)
        self._closed.pop(decode, None)
        for path, given in self._released.pop(decode, {}).items():
            (value,) = evaluate(Element(path), {"text": TextValue(text)})
            if plain(value) != plain(given):
                raise EvaluationError(
                    "it had to be repeated and wrote something else than what had been passed on; run the "
                    "program again, or switch off the pass 'pipeline_decode'"
                )

    def count(self, decode: int, path: _Path) -> int:
        """How many items of a list have closed."""
        closed = self._closed.get(decode, {})
        return bisect_left(range(len(closed)), True, key=lambda item: (*path, item) not in closed)

    def release(self, nodes: Iterable[int]) -> dict[Value, Datum]:
        """The values of those elements among the nodes that have closed."""
        known: dict[Value, Datum] = {}
        for node in nodes:
            place = self._of.get(node)
            part = self._closed.get(place.decode, {}).get(place.path) if place is not None else None
            if place is not None and part is not None:
                datum = lift(part.value())
                known[Value(node)] = datum
                self._released.setdefault(place.decode, {}).setdefault(place.path, datum)
        return known

    def waiting(self, decode: int, paths: Iterable[_Path]) -> list[int]:
        """The elements that are one of these parts."""
        return [node for path in paths for node in self._elements.get(_Place(decode, path), ())]
