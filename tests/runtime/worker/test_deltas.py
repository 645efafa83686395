"""What is posted of the events of a request."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from weft.graph.json_stream import Closed, JsonStream
from weft.runtime.llm.requests import Delta, Event, PromptDone
from weft.runtime.worker.engines.base import Stream
from weft.runtime.worker.engines.deltas import Sift

VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
READ = PromptDone(cached_tokens=0, computed_tokens=3)


def _split(text: str, sizes: list[int]) -> list[str]:
    """A text as the steps of a model might write it; some add nothing."""
    pieces = []
    for size in sizes:
        pieces.append(text[:size])
        text = text[size:]
    return [*pieces, text]


WRITTEN = st.builds(
    lambda value, end, sizes: _split(json.dumps(value) + end, sizes),
    VALUES,
    st.sampled_from(["", " ", " and more"]),
    st.lists(st.integers(0, 7), max_size=30),
)


def sifted(stream: Stream, pieces: list[str]) -> tuple[Sift, list[list[Event]]]:
    posts: list[list[Event]] = []
    sift = Sift(stream, lambda events: posts.append(list(events)))
    sift([READ])
    for piece in pieces:
        sift([Delta(piece, (7, 8))])
    return sift, posts


def texts(posts: list[list[Event]]) -> list[str]:
    return [event.text for events in posts for event in events if isinstance(event, Delta)]


def closed(pieces: list[str]) -> list[Closed]:
    reader = JsonStream()
    return [part for piece in pieces for part in reader.feed(piece)]


@given(WRITTEN, st.sampled_from(Stream))
def test_all_tokens_count_and_other_events_pass(pieces: list[str], stream: Stream) -> None:
    sift, posts = sifted(stream, pieces)
    assert sift.generated == 2 * len(pieces)
    assert posts[0] == [READ]
    assert all(posts)


@given(WRITTEN)
def test_nothing_is_posted_of_what_nobody_wants(pieces: list[str]) -> None:
    assert texts(sifted(Stream.NONE, pieces)[1]) == []


@given(WRITTEN)
def test_all_text_is_posted_as_it_comes(pieces: list[str]) -> None:
    assert texts(sifted(Stream.TEXT, pieces)[1]) == [piece for piece in pieces if piece]


@given(WRITTEN)
def test_parts_close_for_the_reader_with_the_same_step(pieces: list[str]) -> None:
    sift, steps = sifted(Stream.PARTS, [])
    reader, exact = JsonStream(), JsonStream()
    for piece in pieces:
        before = len(steps)
        sift([Delta(piece, (7,))])
        arrived = "".join(texts(steps[before:]))
        assert reader.feed(arrived) == exact.feed(piece)


@given(WRITTEN)
def test_every_post_of_parts_closes_something(pieces: list[str]) -> None:
    reader = JsonStream()
    for text in texts(sifted(Stream.PARTS, pieces)[1]):
        assert reader.feed(text)
