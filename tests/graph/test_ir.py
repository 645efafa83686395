from __future__ import annotations

import math
from typing import Any

import pytest

from weft.graph.errors import GraphError, OperandError
from weft.graph.ir import Graph, Node, Policy, Value, infer
from weft.graph.ops.common import Const, Equals, Input, Project
from weft.graph.ops.primitive import Decode, Prefill
from weft.graph.prompt import Fixed
from weft.graph.types import BOOLEAN, JSON, TEXT, Kv

INPUT = Node(0, Input("question"))


def test_values_read_as_text() -> None:
    assert str(Value(3)) == "%3"
    assert str(Value(3, 1)) == "%3.1"


def test_nodes_say_where_they_come_from() -> None:
    assert Node(3, Equals()).where() == "%3 equals"
    assert Node(3, Equals(), name="same", location="app.py:9").where() == "%3 equals 'same' (app.py:9)"


def test_types_of_all_results_and_of_the_outside() -> None:
    nodes = (INPUT, Node(2, Prefill("m", (Fixed("Hi"),))), Node(3, Decode("m"), {"kv": Value(2)}))
    graph = Graph(nodes, (Value(3, 1),), outside={Value(1, 2): JSON})
    assert graph.types == {
        Value(1, 2): JSON,
        Value(0): TEXT,
        Value(2): Kv("m"),
        Value(3): Kv("m"),
        Value(3, 1): TEXT,
    }


def test_users_are_listed_once_in_order() -> None:
    equal = Node(1, Equals(), {"a": Value(0), "b": Value(0)})
    again = Node(2, Equals(), {"a": Value(0), "b": Value(1)})
    graph = Graph((INPUT, equal, again), ())
    assert graph.users == {Value(0): (equal, again), Value(1): (again,)}
    assert list(graph) == [INPUT, equal, again]
    assert graph.by_id[2] is again


def test_a_rewrite_keeps_name_outside_and_outputs() -> None:
    graph = Graph((INPUT,), (Value(7),), "p", {Value(7): TEXT})
    assert graph.with_nodes((INPUT,)) == graph
    assert graph.with_nodes(()) == Graph((), (Value(7),), "p", {Value(7): TEXT})


@pytest.mark.parametrize(
    ("nodes", "problem"),
    [
        ((Node(-1, Const("1")),), "%-1 const: a node's id must not be negative"),
        ((INPUT, INPUT), "%0 input: another node has the id 0 too"),
        ((Node(5, Const("1")),), "%5 const: another node has the id 5 too"),
        (
            (Node(1, Equals(), {"a": Value(0)}), INPUT),
            "%1 equals: operand 'a' takes %0, which nothing before it makes",
        ),
        (
            (Node(1, Equals(), {"a": Value(1)}),),
            "%1 equals: operand 'a' takes %1, which nothing before it makes",
        ),
        (
            (INPUT, Node(1, Equals(), {"a": Value(0, 1)})),
            "%1 equals: operand 'a' takes %0.1, which nothing before",
        ),
    ],
    ids=["negative", "twice", "as outside", "forward", "cycle", "no such result"],
)
def test_malformed_graphs_are_refused(nodes: tuple[Node, ...], problem: str) -> None:
    with pytest.raises(GraphError) as raised:
        Graph(nodes, (), outside={Value(5): TEXT})
    assert str(raised.value).startswith(problem)


def test_an_output_must_be_made() -> None:
    with pytest.raises(GraphError, match=r"^graph 'p' returns %0.1, which no node makes$"):
        Graph((INPUT,), (Value(0, 1),), "p")


def test_operand_errors_name_node_and_line() -> None:
    node = Node(4, Project("x"), {"value": Value(0)}, "first", "app.py:2")
    with pytest.raises(
        OperandError, match=r"^%4 project 'first' \(app.py:2\): operand 'value' must be data, not text$"
    ):
        infer(node, {Value(0): TEXT})


def test_inference_gives_the_types_of_the_results() -> None:
    assert infer(Node(1, Equals(), {"a": Value(0), "b": Value(0)}), {Value(0): JSON}) == (BOOLEAN,)


@pytest.mark.parametrize(
    ("policy", "problem"),
    [
        ({"timeout_s": 0.0}, "a timeout must be positive, not 0.0 s"),
        ({"timeout_s": math.nan}, "a timeout must be positive, not nan s"),
        ({"attempts": 0}, "attempts must be at least 1, not 0"),
        ({"backoff_s": -1.0}, "a back-off must not be negative, not -1.0 s"),
        ({"backoff_s": math.nan}, "a back-off must not be negative, not nan s"),
    ],
)
def test_senseless_policies_are_refused(policy: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=f"^{problem}$"):
        Policy(**policy)
