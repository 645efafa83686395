from __future__ import annotations

import pytest

from weft.graph.deployment import Deployment, ModelSpec, ToolSpec, UnknownNameError
from weft.graph.errors import GraphError
from weft.graph.ir import Graph, Node, Value
from weft.graph.ops.base import Op
from weft.graph.ops.common import Const, Input, Search, Tool
from weft.graph.ops.control import Map
from weft.graph.ops.user import Generate, Ingest, Select
from weft.graph.prompt import Message
from weft.graph.types import INTEGER, JSON, STRINGS
from weft.graph.verify import verify

SAY = (Message("user", ("x",)),)
OFFER = Deployment(
    {"m": ModelSpec("m", 99)}, "m", indexes=frozenset({"docs"}), tools={"web": ToolSpec("web")}
)


def graph(op: Op, **args: Value) -> Graph:
    constants = (Node(0, Const('"q"')), Node(1, Const("3", INTEGER)))
    return Graph((*constants, Node(2, op, args, location="app.py:5")), (Value(2),))


@pytest.mark.parametrize(
    ("op", "args", "said"),
    [
        (Generate(SAY, model="n"), {}, "unknown model 'n'; known: 'm'"),
        (Select(SAY, ("a",), model="n"), {}, "unknown model 'n'"),
        (Search("dox"), {"query": Value(0), "k": Value(1)}, "unknown index 'dox'; known: 'docs'; fill it"),
        (Tool("wep", where="server"), {}, "unknown tool of the server 'wep'; known: 'web'"),
        (Tool("mine"), {}, "tool 'mine' runs in the client's process"),
    ],
)
def test_unknown_names_are_refused_with_the_known_ones(op: Op, args: dict[str, Value], said: str) -> None:
    with pytest.raises(UnknownNameError, match=said) as caught:
        OFFER.check(graph(op, **args))
    assert "app.py:5" in str(caught.value)


def test_what_is_there_passes() -> None:
    OFFER.check(graph(Generate(SAY)))
    OFFER.check(graph(Search("docs"), query=Value(0), k=Value(1)))
    OFFER.check(graph(Tool("web", where="server")))
    OFFER.check(graph(Tool("mine")), client_tools=["mine"])


def test_an_index_that_the_graph_fills_may_be_searched() -> None:
    nodes = (
        Node(0, Const('["x"]', STRINGS)),
        Node(1, Ingest("new"), {"documents": Value(0)}),
        Node(2, Const("3", INTEGER)),
        Node(3, Search("new"), {"query": Value(0), "k": Value(2), "after": Value(1, 1)}),
    )
    OFFER.check(Graph(nodes, (Value(3),)))


def test_bodies_are_looked_into() -> None:
    body = Graph((Node(0, Input("item")), Node(1, Generate(SAY, model="n"))), (Value(1),))
    nodes = (Node(0, Const("[]", STRINGS)), Node(1, Map(body), {"items": Value(0)}))
    with pytest.raises(UnknownNameError, match="unknown model 'n'"):
        OFFER.check(Graph(nodes, (Value(1),)))


def test_two_inputs_of_one_name_are_refused() -> None:
    with pytest.raises(GraphError, match="another input has the name 'q' too"):
        verify(Graph((Node(0, Input("q")), Node(1, Input("q"))), (Value(0),)))


def test_an_effect_cannot_leave_a_run() -> None:
    nodes = (Node(0, Const("[]", JSON)), Node(1, Ingest("i"), {"documents": Value(0)}))
    with pytest.raises(GraphError, match=r"returns %1.1; a effect\[i\] cannot leave a run"):
        verify(Graph(nodes, (Value(1, 1),)))


def test_the_effect_of_another_index_orders_nothing() -> None:
    nodes = (
        Node(0, Const("[]", STRINGS)),
        Node(1, Ingest("a"), {"documents": Value(0)}),
        Node(2, Ingest("b"), {"documents": Value(0), "after": Value(1, 1)}),
    )
    with pytest.raises(GraphError, match="ordered after an effect on 'a', not on 'b'"):
        verify(Graph(nodes, (Value(2),)))
