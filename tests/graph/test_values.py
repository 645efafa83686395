from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from weft.graph.prompt import Strip
from weft.graph.types import JSON, TEXT, VECTORS, Effect, Kv, Type
from weft.graph.values import (
    EFFECT,
    Datum,
    Json,
    KvValue,
    TextValue,
    VectorsValue,
    fits,
    plain,
    render,
    strip,
)

ROWS = VectorsValue(np.array([[1.0, 0.0]], dtype=np.float32))
KINDS: list[tuple[Datum, tuple[Type, ...]]] = [
    (TextValue("a"), (TEXT, JSON)),
    (Json(3), (JSON,)),
    (ROWS, (VECTORS, JSON)),
    (KvValue("r/%1"), (Kv("m"),)),
    (EFFECT, (Effect("i"),)),
]


@pytest.mark.parametrize(("datum", "kinds"), KINDS)
def test_which_values_stand_for_which_types(datum: Datum, kinds: tuple[Type, ...]) -> None:
    for kind in (TEXT, JSON, VECTORS, Kv("m"), Effect("i")):
        assert fits(datum, kind) == (kind in kinds)


def test_values_as_json_data() -> None:
    assert plain(TextValue("a", (1,), "t", 1)) == "a"
    assert plain(Json({"a": [None]})) == {"a": [None]}
    assert plain(ROWS) == [[1.0, 0.0]]


@pytest.mark.parametrize("datum", [EFFECT, KvValue("r/%1")])
def test_contexts_and_effects_are_no_data(datum: Datum) -> None:
    with pytest.raises(TypeError, match=f"a {type(datum).__name__} is not data"):
        plain(datum)


PASSAGE = {"id": "a", "text": "A.", "score": 0.5}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("as it is\n", "as it is\n"),
        (3, "3"),
        (0.5, "0.5"),
        (True, "true"),
        (None, "null"),
        ({"ü": [1]}, '{"ü": [1]}'),
        ([], ""),
        (["a", 2, {"b": 3}], 'a\n2\n{"b": 3}'),
        ([["a", "b"], "c"], "a\nb\nc"),
        (PASSAGE, "A."),
        ([PASSAGE, PASSAGE | {"text": "B."}], "[1] A.\n[2] B."),
        ([PASSAGE, "x"], "A.\nx"),
        ([{"id": "a", "text": "A."}], '{"id": "a", "text": "A."}'),
    ],
)
def test_how_values_read_in_a_prompt(value: Any, shown: str) -> None:
    assert render(Json(value)) == shown


@pytest.mark.parametrize(
    ("edges", "left"),
    [("", " a b\n"), ("left", "a b\n"), ("right", " a b"), ("both", "a b"), ("escaped", " a b\\n")],
)
def test_stripping(edges: Strip, left: str) -> None:
    assert strip(" a b\n", edges) == left


def test_vectors_are_equal_by_their_numbers() -> None:
    same = VectorsValue(np.array([[1.0, 0.0]], dtype=np.float32))
    assert same == ROWS
    assert hash(ROWS) == hash(same)
    assert VectorsValue(np.array([[1.0, 0.5]], dtype=np.float32)) != ROWS
    assert Json([[1.0, 0.0]]) != ROWS
