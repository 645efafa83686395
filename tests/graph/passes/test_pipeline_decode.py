"""Checks 8 and 9 of the acceptance list, on live graphs; equality of outputs is in test_equivalence.py."""

from __future__ import annotations

import json

import pytest

from weft.graph.deployment import Deployment, ModelSpec
from weft.graph.errors import EvaluationError
from weft.graph.evaluate import evaluate
from weft.graph.ir import Graph, Node, Value
from weft.graph.live import Growth, LiveGraph
from weft.graph.ops.common import Const, Embed, Gather, Input, Project, Search
from weft.graph.ops.control import Map
from weft.graph.ops.optimized import Element, Merge
from weft.graph.ops.primitive import Decode
from weft.graph.ops.user import Generate
from weft.graph.prompt import Message, Slot
from weft.graph.sampling import JsonSchema
from weft.graph.types import INTEGER, JSON, STRINGS, Data
from weft.graph.values import Json, TextValue, plain

DEPLOYMENT = Deployment({"m": ModelSpec("m", 4096)}, "m")
ASK = (Message("user", ("List: ", Slot("q"))),)
QUERIES = Generate(ASK, STRINGS, constraint=JsonSchema(STRINGS.schema))
PLAN = Data(
    '{"properties":{"steps":{"items":{"type":"string"},"type":"array"},"title":{"type":"string"},'
    '"note":{"type":"string"}},"required":["steps","title","note"],"type":"object"}'
)


def searching() -> tuple[LiveGraph, int, int]:
    """A program that searches for each query that a model writes; the decode and the map."""
    live = LiveGraph(DEPLOYMENT)
    nodes = (
        Node(0, Input("q")),
        Node(1, QUERIES, {"q": Value(0)}),
        Node(2, Const("4", INTEGER)),
        Node(3, Search("docs"), {"query": Value(1), "k": Value(2)}, name="find", location="app.py:9"),
    )
    live.extend(Graph(nodes, (Value(3),)), closed=True)
    (decode,) = [n.id for n in live.nodes.values() if isinstance(n.op, Decode)]
    (control,) = [n.id for n in live.nodes.values() if isinstance(n.op, Map)]
    return live, decode, control


def searches(growths: list[Growth]) -> int:
    return sum(isinstance(node.op, Search) for growth in growths for node in growth.nodes)


def test_each_query_is_searched_for_as_soon_as_it_is_written() -> None:
    live, decode, _ = searching()
    live.streams.begin(decode)
    assert live.written(decode, '["first qu') == ({}, [])
    known, grown = live.written(decode, 'ery", "sec')
    assert [plain(datum) for datum in known.values()] == ["first query"]  # the bare string
    assert searches(grown) == 1
    live.learned(known)
    assert [type(n.op) for n in grown[0].nodes] == [Element, Embed, Search]
    assert grown[0].nodes[-1].location == "app.py:9"
    known, grown = live.written(decode, 'ond", "third"')
    assert [plain(datum) for datum in known.values()] == ["second", "third"]
    assert searches(grown) == 2


def test_each_search_keeps_the_condition_of_all() -> None:
    live = LiveGraph(DEPLOYMENT)
    nodes = (
        Node(0, Input("q")),
        Node(1, QUERIES, {"q": Value(0)}),
        Node(2, Const("4", INTEGER)),
        Node(3, Const('{"team":"hr"}', JSON)),
        Node(4, Search("docs"), {"query": Value(1), "k": Value(2), "where": Value(3)}),
    )
    live.extend(Graph(nodes, (Value(4),)), closed=True)
    (decode,) = [n.id for n in live.nodes.values() if isinstance(n.op, Decode)]
    live.streams.begin(decode)
    _, grown = live.written(decode, '["first query"')
    assert grown[0].nodes[-1].args["where"] == Value(3)


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_the_number_of_items_is_discovered(count: int) -> None:
    live, decode, control = searching()
    live.streams.begin(decode)
    items = [f"query {n}" for n in range(count)]
    found = 0
    for character in json.dumps(items)[:-1]:
        known, grown = live.written(decode, character)
        found += searches(grown)
        live.learned(known)
    assert found == count
    live.streams.ended(decode, json.dumps(items))
    growth = live.expand(control, {"items": Json(items)})
    assert growth.replaces
    assert growth.nodes[-1].op == Merge("passages")
    assert len(growth.nodes[-1].args) == count


def test_fields_are_known_one_by_one_and_lists_in_them_item_by_item() -> None:
    live = LiveGraph(DEPLOYMENT)
    body = Graph(
        (Node(0, Input("item")), Node(1, Generate((Message("user", (Slot("i"),)),)), {"i": Value(0)})),
        (Value(1),),
    )
    nodes = (
        Node(0, Input("q")),
        Node(1, Generate(ASK, PLAN, constraint=JsonSchema(PLAN.schema)), {"q": Value(0)}),
        Node(2, Project("title"), {"value": Value(1)}),
        Node(3, Project("steps"), {"value": Value(1)}),
        Node(4, Map(body), {"items": Value(3)}),
        Node(5, Gather("list"), {"0": Value(2), "1": Value(4)}),
    )
    live.extend(Graph(nodes, (Value(5),)), closed=True)
    (decode,) = [n.id for n in live.nodes.values() if isinstance(n.op, Decode)]
    assert {n.op.path for n in live.nodes.values() if isinstance(n.op, Element)} == {("title",), ("steps",)}
    live.streams.begin(decode)
    known, grown = live.written(decode, '{"steps": ["a", ')
    assert [plain(datum) for datum in known.values()] == ["a"]
    assert any(isinstance(node.op, Decode) for node in grown[0].nodes)
    live.learned(known)
    known, _ = live.written(decode, '"b"], "title": "T"')
    assert [plain(datum) for datum in known.values()] == [["a", "b"], "T"]


ONLY = Data('{"properties":{"title":{"type":"string"}},"required":["title"],"type":"object"}')

LOOSE = Data(
    '{"properties":{"who":{"properties":{"name":{"type":"string"}},"required":["name"],"type":"object"},'
    '"n":{"type":"integer"}},"required":["n"],"type":"object"}'
)


@pytest.mark.parametrize(("kind", "last"), [(ONLY, "title"), (PLAN, "note")])
def test_a_field_that_closes_with_the_whole_is_left_alone_by_name(kind: Data, last: str) -> None:
    live = LiveGraph(DEPLOYMENT)
    nodes = (
        Node(0, Input("q")),
        Node(1, Generate(ASK, kind, constraint=JsonSchema(kind.schema)), {"q": Value(0)}),
        Node(2, Project(last), {"value": Value(1)}),
        Node(3, Project(-1), {"value": Value(4)}),
    )
    queries = Node(4, QUERIES, {"q": Value(0)})
    ordered = (*nodes[:3], queries, nodes[3])
    live.extend(Graph(ordered, (Value(2), Value(3))), closed=True)
    (report,) = [report for report in live.reports if report.name == "pipeline_decode"]
    assert [note.rule for note in report.refusals] == ["closes with the whole", "counted from the end"]


def test_a_field_that_the_model_leaves_out_is_its_default() -> None:
    live = LiveGraph(DEPLOYMENT)
    nodes = (
        Node(0, Input("q")),
        Node(1, Generate(ASK, LOOSE, constraint=JsonSchema(LOOSE.schema)), {"q": Value(0)}),
        Node(2, Project("who", '{"name":"nobody"}'), {"value": Value(1)}),
        Node(3, Project("name"), {"value": Value(2)}),
        Node(4, Gather("list"), {"0": Value(2), "1": Value(3)}),
    )
    live.extend(Graph(nodes, (Value(4),)), closed=True)
    (report,) = [report for report in live.reports if report.name == "pipeline_decode"]
    assert [note.rule for note in report.refusals] == ["may be left out"]
    (decode,) = [n.id for n in live.nodes.values() if isinstance(n.op, Decode)]
    (early,) = [n for n in live.nodes.values() if isinstance(n.op, Element)]
    live.streams.begin(decode)
    known, _ = live.written(decode, '{"who": {"name": "Ann"}, ')
    assert [plain(datum) for datum in known.values()] == [{"name": "Ann"}]
    assert [plain(v) for v in evaluate(early.op, {"text": TextValue('{"n": 1}')})] == [{"name": "nobody"}]


def test_a_repeated_decode_must_write_what_was_passed_on() -> None:
    live, decode, _ = searching()
    live.streams.begin(decode)
    known, _ = live.written(decode, '["a", ')
    live.learned(known)
    live.streams.begin(decode)  # another attempt, on another worker
    assert live.written(decode, '["a", "b"')[0].keys().isdisjoint(known)
    live.streams.ended(decode, '["a", "b"]')


def test_a_repeated_decode_that_writes_something_else_is_an_error() -> None:
    live, decode, _ = searching()
    live.streams.begin(decode)
    live.learned(live.written(decode, '["a", ')[0])
    with pytest.raises(EvaluationError, match="had to be repeated and wrote something else"):
        live.streams.ended(decode, '["x"]')


def test_a_later_increment_pipelines_from_a_decode_that_is_writing() -> None:
    live = LiveGraph(DEPLOYMENT)
    first = (Node(0, Input("q")), Node(1, QUERIES, {"q": Value(0)}))
    live.extend(Graph(first, ()), closed=False)
    (decode,) = [n.id for n in live.nodes.values() if isinstance(n.op, Decode)]
    live.streams.begin(decode)
    live.written(decode, '["a", "b", "c')
    outside = {Value(1): live.types[live.resolve(Value(1))]}
    second = (Node(2, Const("4", INTEGER)), Node(3, Search("docs"), {"query": Value(1), "k": Value(2)}))
    added = live.extend(Graph(second, (), outside=outside), closed=False)
    known, grown = live.catch_up(added)
    assert [plain(datum) for datum in known.values()] == ["a", "b"]
    assert searches(grown) == 2


def test_passages_are_handed_on_as_their_place_in_the_merged_list_is_settled() -> None:
    live, decode, control = searching()
    shout = Graph(
        (Node(0, Input("item", Data())), Node(1, Project("text"), {"value": Value(0)})), (Value(1),)
    )
    outside = {Value(3): live.types[live.resolve(Value(3))]}
    live.extend(Graph((Node(9, Map(shout), {"items": Value(3)}),), (), outside=outside), closed=False)
    live.streams.begin(decode)
    known, grown = live.written(decode, '["a", "b"')
    live.learned(known)
    first, second = (Value(n.id) for g in grown for n in g.nodes if isinstance(n.op, Search))
    passages = [{"id": "1", "text": "one", "score": 1.0}]
    assert live.learned({second: Json(passages)}) == []  # what precedes it is not known
    (reader,) = live.learned({first: Json([*passages, {"id": "2", "text": "two", "score": 1.0}])})
    growth = live.advance(reader)
    early, _ = live.catch_up(growth.nodes)
    assert [plain(datum)["id"] for datum in early.values()] == ["1", "2"]  # "1" once
    assert not growth.replaces
    assert isinstance(live.nodes[control].op, Map)
