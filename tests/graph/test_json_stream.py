from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from weft.graph.json_stream import JsonStream
from weft.graph.ops.optimized import Key

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


def parts(value: Any, path: tuple[Key, ...] = ()) -> dict[tuple[Key, ...], Any]:
    """Every part of a value by its path."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = {path: value}
    for key, item in inner:
        found |= parts(item, (*path, key))
    return found


@settings(max_examples=300)
@given(VALUES, st.sampled_from([None, 1]), st.booleans(), st.data())
def test_every_part_closes_once_with_its_value(
    value: Any, indent: int | None, ascii: bool, data: st.DataObject
) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii) + " "
    stream, closed, rest = JsonStream(), [], text
    while rest:
        size = data.draw(st.integers(1, 7))
        closed += stream.feed(rest[:size])
        rest = rest[size:]
    assert len({part.path for part in closed}) == len(closed)
    assert {part.path: part.value() for part in closed} == parts(value)


def test_a_part_is_known_with_the_character_that_closes_it() -> None:
    stream = JsonStream()
    assert stream.feed('{"a": "x') == []
    assert [part.path for part in stream.feed('"')] == [("a",)]
    assert stream.feed(', "n": 12') == []
    assert [(part.path, part.text) for part in stream.feed("}")] == [
        (("n",), "12"),
        ((), '{"a": "x", "n": 12}'),
    ]


@given(st.text())
def test_what_is_no_json_is_no_error(text: str) -> None:
    JsonStream().feed(text)
