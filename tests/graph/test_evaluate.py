from __future__ import annotations

from typing import Any

import pytest

from weft.graph.errors import TooLargeError
from weft.graph.evaluate import EvaluationError, evaluate, lift
from weft.graph.ops.base import Op
from weft.graph.ops.common import (
    Const,
    Embed,
    Equals,
    Format,
    Forward,
    Gather,
    Parse,
    Project,
)
from weft.graph.ops.optimized import Element
from weft.graph.prompt import Slot
from weft.graph.types import INTEGER, STRINGS, TEXT, Data
from weft.graph.values import TextValue, plain

DOUBLED: list[Any] = ["x"]
for _ in range(60):
    DOUBLED = [DOUBLED, DOUBLED]
PASSAGES = [{"id": "a", "text": "A.", "score": 0.1}, {"id": "b", "text": "B.", "score": 0.2}]


def value(op: Op, **args: Any) -> Any:
    (result,) = evaluate(op, {name: lift(arg) for name, arg in args.items()})
    return plain(result)


@pytest.mark.parametrize(
    ("op", "args", "expected"),
    [
        (Const('{"a": 1}'), {}, {"a": 1}),
        (Const('"é"'), {}, "é"),
        (Format(("<", Slot("x", "both"), ">")), {"x": "  a "}, "<a>"),
        (Format((Slot("x", "left"), Slot("y", "right"), ".")), {"x": " a ", "y": " b "}, "a  b."),
        (Format((Slot("x"),)), {"x": True}, "true"),
        (Format((Slot("x"),)), {"x": None}, "null"),
        (Format((Slot("x"),)), {"x": ["a", 1]}, "a\n1"),
        (Format((Slot("x"),)), {"x": {"a": "é"}}, '{"a": "é"}'),
        (Format((Slot("x"),)), {"x": PASSAGES}, "[1] A.\n[2] B."),
        (Format((Slot("x"),)), {"x": PASSAGES[0]}, "A."),
        (Format((Slot("x"),)), {"x": []}, ""),
        (Project("a"), {"value": {"a": [1]}}, [1]),
        (Project(-1), {"value": [1, 2]}, 2),
        (Project("a", "[]"), {"value": {"a": None}}, None),
        (Project("b", "[]"), {"value": {"a": 1}}, []),
        (Element(("a", "b"), TEXT, '"none"'), {"text": '{"a": {}}'}, "none"),
        (Gather("list"), {"0": 1, "1": "x"}, [1, "x"]),
        (Gather("object"), {"b": 1, "a": [2]}, {"a": [2], "b": 1}),
        (Gather("list"), {}, []),
        (Parse(STRINGS), {"text": '["a"]'}, ["a"]),
        (Equals(), {"a": "x", "b": "x"}, True),
        (Equals(), {"a": 1, "b": "1"}, False),
        (Forward(INTEGER), {"value": 3}, 3),
    ],
)
def test_results(op: Op, args: dict[str, Any], expected: Any) -> None:
    assert value(op, **args) == expected


@pytest.mark.parametrize(
    ("op", "args", "said"),
    [
        (Project("b"), {"value": {"a": 1}}, "no field 'b'"),
        (Project("b"), {"value": [1]}, "no field 'b'"),
        (Project("b", "[]"), {"value": None}, "no field 'b' in null"),
        (Element(("a", "b"), TEXT, '"none"'), {"text": "{}"}, "no field 'a'"),
        (Project(2), {"value": [1, 2]}, "no item 2 in a list of 2"),
        (Project(-3), {"value": [1, 2]}, "no item -3"),
        (Project(0), {"value": {"a": 1}}, "it is not a list"),
        (Parse(STRINGS), {"text": '["a"'}, "does not give a value of the declared type"),
        (Parse(STRINGS), {"text": "[1]"}, r"the value\[0\] must be string, not integer 1"),
        (Parse(Data('{"enum":[1,2]}')), {"text": "3"}, "must be one of"),
        (Forward(TEXT), {"value": 3}, "expected a text"),
    ],
)
def test_operands_that_do_not_allow_it(op: Op, args: dict[str, Any], said: str) -> None:
    with pytest.raises(EvaluationError, match=said):
        value(op, **args)


def test_long_values_are_cut_in_errors() -> None:
    with pytest.raises(EvaluationError) as caught:
        value(Parse(STRINGS), text="x" * 10_000)
    assert len(str(caught.value)) < 500


def test_what_engines_compute_is_refused() -> None:
    with pytest.raises(TypeError, match="embed is not an operation of the orchestrator"):
        evaluate(Embed(), {"texts": TextValue("x")})


@pytest.mark.parametrize(
    ("op", "args", "size"),
    [
        (Format(("ab", Slot("x"), Slot("x"))), {"x": "cd"}, 6),
        (Format((Slot("x"),)), {"x": ["a", "b"]}, 3),
        (Gather("list"), {"0": "abc", "1": 1}, 67),
        (Gather("object"), {"b": "abc", "a": [{"c": "de"}]}, 133),
    ],
)
def test_what_is_made_has_a_largest_size(op: Op, args: dict[str, Any], size: int) -> None:
    given = {name: lift(arg) for name, arg in args.items()}
    assert evaluate(op, given, size) == evaluate(op, given)
    with pytest.raises(TooLargeError):
        evaluate(op, given, size - 1)


def test_lists_count_as_they_are_written() -> None:
    with pytest.raises(TooLargeError):
        evaluate(Gather("list"), {"0": lift(DOUBLED)}, 1 << 20)
