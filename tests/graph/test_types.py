from __future__ import annotations

from typing import Any

import pytest

from weft.graph.prompt import Fixed, Piece, Slot, merge_fixed, slots
from weft.graph.sampling import Choices, Sampling
from weft.graph.schema import canonical, parse
from weft.graph.types import (
    BOOLEAN,
    INTEGER,
    JSON,
    NUMBER,
    PASSAGES,
    STRINGS,
    TEXT,
    VECTORS,
    Data,
    Effect,
    Kv,
    Type,
    list_type,
)


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        (TEXT, "text"),
        (JSON, "data"),
        (INTEGER, "integer"),
        (PASSAGES, "passages"),
        (Data('{"title":"Plan","type":"object"}'), "plan"),
        (Kv("reference"), "kv"),
        (VECTORS, "vectors"),
        (Effect("handbook"), "effect[handbook]"),
    ],
)
def test_how_types_read(kind: Type, shown: str) -> None:
    assert str(kind) == shown


@pytest.mark.parametrize("kind", [JSON, BOOLEAN, INTEGER, NUMBER, STRINGS, PASSAGES])
def test_the_common_schemas_are_canonical(kind: Data) -> None:
    assert canonical(parse(kind.schema)) == kind.schema


def test_lists_of_types() -> None:
    assert list_type(TEXT) == STRINGS
    assert list_type(INTEGER) == Data('{"items":{"type":"integer"},"type":"array"}')
    assert list_type(VECTORS) == Data('{"items":{},"type":"array"}')


def test_slots_are_named_once_in_order() -> None:
    assert slots(["a", Slot("y"), Fixed("b"), Slot("x", "both"), Slot("y")]) == ("y", "x")


def test_neighbouring_constants_of_equal_trust_are_joined() -> None:
    pieces: list[Piece] = [
        Fixed("a"),
        Fixed(""),
        Fixed("b"),
        Fixed("c", True),
        Slot("x"),
        Fixed("", True),
        Fixed("d"),
    ]
    assert merge_fixed(pieces) == (Fixed("ab"), Fixed("c", True), Slot("x"), Fixed("d"))


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({"max_tokens": 0}, "max_tokens must be at least 1, not 0"),
        ({"temperature": -0.1}, "temperature must lie between 0 and 100, not -0.1"),
        ({"temperature": float("nan")}, "temperature must lie between 0 and 100, not nan"),
        ({"top_p": 0.0}, r"top_p must lie in \(0, 1\], not 0.0"),
        ({"top_k": -1}, r"top_k must be 0 \(off\) or positive, not -1"),
        ({"stop": ("a", "")}, "stop must not hold an empty string"),
    ],
)
def test_senseless_sampling_is_refused(parameters: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=f"^{problem}"):
        Sampling(**parameters)


def test_only_greedy_sampling_is_deterministic() -> None:
    assert Sampling().greedy
    assert not Sampling(temperature=0.1).greedy


@pytest.mark.parametrize(
    ("options", "problem"), [((), "must not be empty"), (("a", "a"), "must differ from one another")]
)
def test_senseless_choices_are_refused(options: tuple[str, ...], problem: str) -> None:
    with pytest.raises(ValueError, match=f"choices {problem}"):
        Choices(options)
