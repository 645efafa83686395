from __future__ import annotations

from dataclasses import replace

import pytest

from weft.graph.deployment import Deployment, ModelSpec
from weft.graph.errors import GraphError
from weft.graph.evaluate import EvaluationError
from weft.graph.ir import Graph, Node, Value
from weft.graph.live import LiveGraph
from weft.graph.ops.common import Const, Equals, Format, Forward, Gather, Input, Project
from weft.graph.ops.control import Cond, Fold, Loop, Map
from weft.graph.ops.primitive import Decode
from weft.graph.ops.user import Generate
from weft.graph.prompt import Message, Slot
from weft.graph.sampling import Sampling
from weft.graph.types import BOOLEAN, JSON, STRINGS, TEXT
from weft.graph.values import Json, TextValue

SHOUT = Graph(
    (
        Node(0, Input("item")),
        Node(1, Input("mark")),
        Node(2, Format((Slot("i"), Slot("m"))), {"i": Value(0), "m": Value(1)}),
    ),
    (Value(2),),
)


def live_with(*nodes: Node) -> LiveGraph:
    live = LiveGraph(Deployment({"m": ModelSpec("m", 99)}, "m"))
    live.extend(Graph(nodes, (Value(nodes[-1].id),)), closed=True)
    return live


def test_a_map_becomes_one_body_for_each_item_and_a_list() -> None:
    live = live_with(
        Node(0, Input("xs", STRINGS)),
        Node(1, Input("mark")),
        Node(2, Map(SHOUT), {"items": Value(0), "mark": Value(1)}, location="a.py:1"),
    )
    nodes = live.expand(2, {"items": Json(["a", "b"]), "mark": TextValue("!")}).nodes
    assert [type(node.op) for node in nodes] == [Project, Format, Project, Format, Gather]
    assert nodes[-1].id == 2
    assert nodes[-1].location == "a.py:1"
    assert list(nodes[-1].args) == ["0", "1"]


def test_a_map_over_nothing_is_an_empty_list() -> None:
    live = live_with(
        Node(0, Input("xs", STRINGS)),
        Node(1, Input("mark")),
        Node(2, Map(SHOUT), {"items": Value(0), "mark": Value(1)}),
    )
    (gather,) = live.expand(2, {"items": Json([]), "mark": TextValue("!")}).nodes
    assert gather == Node(2, Gather("list"))


@pytest.mark.parametrize(("known", "kept"), [(False, [Project, Format]), (True, [Project, Format, Format])])
def test_what_the_orchestrator_computes_at_once_is_pruned_and_no_more(known: bool, kept: list[type]) -> None:
    """Equal nodes are not looked for: to compute one costs less."""
    twice = Graph(
        (
            Node(0, Input("item")),
            Node(1, Format((Slot("i"), "!")), {"i": Value(0)}),
            Node(2, Format((Slot("i"), "!")), {"i": Value(0)}),
            Node(3, Format((Slot("i"), " is not taken")), {"i": Value(0)}),
            Node(4, Gather("list"), {"0": Value(1), "1": Value(2)}),
        ),
        (Value(4),),
    )
    live = live_with(Node(0, Input("xs", STRINGS)), Node(1, Map(twice), {"items": Value(0)}))
    if known:
        live.learned({Value(0): Json(["a"])})
    nodes = live.expand(1, {"items": Json(["a"])}).nodes
    assert [type(node.op) for node in nodes] == [*kept, Gather, Gather]


def test_a_map_all_of_whose_bodies_have_begun_begins_no_further_ones() -> None:
    """Several of its bodies may end at once; each then says that it may go on."""
    live = live_with(
        Node(0, Input("xs", STRINGS)),
        Node(1, Input("mark")),
        Node(2, Map(SHOUT, concurrency=2), {"items": Value(0), "mark": Value(1)}),
    )
    begun = live.expand(2, {"items": Json(["a", "b", "c"]), "mark": TextValue("!")})
    results = [Value(node.id) for node in begun.nodes if isinstance(node.op, Format)]
    freed = [control for result in results for control in live.learned({result: TextValue("a!")})]
    assert freed == [2, 2]
    last, none = map(live.advance, freed)
    assert [type(node.op) for node in last.nodes] == [Project, Format, Gather]
    assert not none.nodes


def test_bodies_whose_results_are_known_keep_no_others_waiting() -> None:
    """They are merged with what has been computed before, and nothing will ever say that they are done."""
    same = Graph((Node(0, Input("item")), Node(1, Generate((Message("raw", ("x",)),)))), (Value(1),))
    live = live_with(Node(0, Generate((Message("raw", ("x",)),))))
    live.learned({live.resolve(Value(0)): TextValue("y")})
    items = Node(1, Const('["a", "b", "c"]', STRINGS))
    mapped = Node(2, Map(same, concurrency=1), {"items": Value(1)})
    *_, control = live.extend(Graph((items, mapped), (Value(2),)), closed=False)
    growth = live.expand(control.id, {"items": Json(["a", "b", "c"])})
    assert growth.replaces
    assert growth.nodes[-1].args == dict.fromkeys("012", live.resolve(Value(0)))


def test_the_body_of_a_map_gets_its_items_at_the_type_it_declares() -> None:
    live = live_with(
        Node(0, Input("xs", JSON)),
        Node(1, Input("mark")),
        Node(2, Map(SHOUT), {"items": Value(0), "mark": Value(1)}),
    )
    nodes = live.expand(2, {"items": Json(["a"]), "mark": TextValue("!")}).nodes
    assert [node.op for node in nodes if isinstance(node.op, Forward)] == [Forward(TEXT)]


@pytest.mark.parametrize(("value", "expected"), [(True, "yes"), (False, "no")])
def test_a_condition_becomes_the_branch_that_is_taken(value: bool, expected: str) -> None:
    yes, no = (Graph((Node(0, Const(f'"{word}"', TEXT)),), (Value(0),)) for word in ("yes", "no"))
    live = live_with(Node(0, Input("p", BOOLEAN)), Node(1, Cond(yes, no), {"predicate": Value(0)}))
    constant, forward = live.expand(1, {"predicate": Json(value)}).nodes
    assert constant.op == Const(f'"{expected}"', TEXT)
    assert forward == Node(1, Forward(TEXT), {"value": Value(constant.id)})


TURN = Graph(
    (
        Node(0, Input("state")),
        Node(1, Format((Slot("s"), "x")), {"s": Value(0)}),
        Node(2, Const('"axx"', TEXT)),
        Node(3, Equals(), {"a": Value(1), "b": Value(2)}),
    ),
    (Value(1), Value(3)),
)


def turns(live: LiveGraph, *done: bool) -> list[type]:
    """The types of the node that takes the loop's place, turn by turn."""
    found = [type(live.expand(1, {"state": TextValue("a")}).nodes[-1].op)]
    for value in done:
        nodes = live.expand(1, {"state": TextValue("a"), "done": Json(value)}).nodes
        found.append(type(nodes[-1].op))
    return found


def test_a_loop_takes_turns_until_it_says_so() -> None:
    live = live_with(Node(0, Input("s")), Node(1, Loop(TURN, limit=9), {"state": Value(0)}))
    assert turns(live, False, True) == [Loop, Loop, Forward]


def test_a_loop_stops_at_its_limit() -> None:
    live = live_with(Node(0, Input("s")), Node(1, Loop(TURN, limit=2), {"state": Value(0)}))
    assert turns(live, False, False) == [Loop, Loop, Forward]


STEP = Graph(
    (
        Node(0, Input("state")),
        Node(1, Input("item")),
        Node(2, Format((Slot("s"), Slot("i"))), {"s": Value(0), "i": Value(1)}),
    ),
    (Value(2),),
)


def folding() -> LiveGraph:
    return live_with(
        Node(0, Input("xs", STRINGS)),
        Node(1, Input("s")),
        Node(2, Fold(STEP), {"items": Value(0), "state": Value(1)}),
    )


def test_a_fold_becomes_one_body_for_each_item_on_the_state_of_the_one_before() -> None:
    nodes = folding().expand(2, {"items": Json(["a", "b"]), "state": TextValue("")}).nodes
    assert [type(node.op) for node in nodes] == [Project, Format, Project, Format, Forward]
    first, second, last = nodes[1], nodes[3], nodes[4]
    assert (first.args["s"], second.args["s"]) == (Value(1), Value(first.id))
    assert last == Node(2, Forward(TEXT), {"value": Value(second.id)})


def test_a_fold_over_nothing_is_the_first_state() -> None:
    (forward,) = folding().expand(2, {"items": Json([]), "state": TextValue("")}).nodes
    assert forward == Node(2, Forward(TEXT), {"value": Value(1)})


@pytest.mark.parametrize("predicate", ["yes", 1, None])
def test_a_predicate_must_be_a_truth_value(predicate: object) -> None:
    constant = Graph((Node(0, Const("1")),), (Value(0),))
    live = live_with(Node(0, Input("p", JSON)), Node(1, Cond(constant, constant), {"predicate": Value(0)}))
    with pytest.raises(EvaluationError, match=r"cond needs true or false.*\.equals"):
        live.expand(1, {"predicate": Json(predicate)})


def test_a_map_needs_a_list() -> None:
    live = live_with(
        Node(0, Input("xs", JSON)),
        Node(1, Input("mark")),
        Node(2, Map(SHOUT), {"items": Value(0), "mark": Value(1)}),
    )
    with pytest.raises(EvaluationError, match="map needs a list, not dict"):
        live.expand(2, {"items": Json({"a": 1}), "mark": TextValue("!")})


def test_a_fold_needs_a_list() -> None:
    live = live_with(
        Node(0, Input("xs", JSON)),
        Node(1, Input("s")),
        Node(2, Fold(STEP), {"items": Value(0), "state": Value(1)}),
    )
    with pytest.raises(EvaluationError, match="fold needs a list, not dict"):
        live.expand(2, {"items": Json({"a": 1}), "state": TextValue("")})


def test_an_increment_cannot_take_what_nobody_made() -> None:
    live = live_with(Node(0, Input("q")))
    increment = Graph((), (Value(9),), outside={Value(9): TEXT})
    with pytest.raises(GraphError, match="no increment made %9"):
        live.extend(increment, closed=False)


def test_an_increment_cannot_take_a_value_as_another_type() -> None:
    live = live_with(Node(0, Input("q")))
    with pytest.raises(GraphError, match="takes %0 as integer"):
        live.extend(
            Graph((), (Value(0),), outside={Value(0): JSON.__class__('{"type":"integer"}')}), closed=False
        )


def test_reports_tell_what_each_pass_did() -> None:
    live = live_with(Node(0, Input("q")), Node(1, Const("1")), Node(2, Format((Slot("q"),)), {"q": Value(0)}))
    assert [(report.name, report.summary) for report in live.reports] == [
        ("as written", "3 nodes"),
        ("lower", "all nodes are primitives"),
        ("pipeline_decode", "no model writes anything that has parts"),
        ("split_prefill", "no prompt waits for a part of it"),
        ("stage", "nothing could run in stages"),
        ("dedupe", "merged 0 of 3 nodes"),
        ("prune", "removed 1 of 3 nodes"),
    ]
    assert [(note.node, note.text) for note in live.reports[-1].changes] == [
        (1, "removed const: nobody takes its result")
    ]


def test_an_increment_takes_values_at_the_types_that_the_client_knows() -> None:
    live = LiveGraph(Deployment({"m": ModelSpec("m", 99)}, "m"))
    samples = Generate((Message("user", ("x",)),), n=2)
    live.extend(Graph((Node(0, samples),), (Value(0),)), closed=False)
    shown = Node(1, Format((Slot("s"),)), {"s": Value(0)})
    reports = len(live.reports)
    (node,) = live.extend(Graph((shown,), (), outside={Value(0): STRINGS}), closed=False)
    assert node.args == {"s": live.resolve(Value(0))}
    assert len(live.reports) == reports, "those of the last increment"


SAMPLED = Generate((Message("raw", ("x",)),), sampling=Sampling(temperature=1.0, seed=7))


def seeds(live: LiveGraph) -> list[int]:
    return [node.op.sampling.seed for node in live.nodes.values() if isinstance(node.op, Decode)]


def test_the_bodies_of_a_map_sample_apart_and_alike_in_every_run() -> None:
    inner = Graph((Node(0, Input("item", JSON)), Node(1, SAMPLED)), (Value(1),))
    outer = Graph((Node(0, Input("item", STRINGS)), Node(1, Map(inner), {"items": Value(0)})), (Value(1),))
    drawn: list[list[int]] = []
    for _ in range(2):
        live = live_with(Node(0, Input("xss", JSON)), Node(1, Map(outer), {"items": Value(0)}))
        for node in live.expand(1, {"items": Json([["a", "b"], ["c", "d"]])}).nodes:
            if isinstance(node.op, Map):
                live.expand(node.id, {"items": Json(["a", "b"])})
        drawn.append(seeds(live))
    assert len(set(drawn[0])) == 4
    assert drawn[0] == drawn[1]


def test_turns_sample_apart() -> None:
    nodes = (Node(0, Input("state")), Node(1, SAMPLED), Node(2, Const("false")))
    body = Graph(nodes, (Value(1), Value(2)))
    live = live_with(Node(0, Input("q")), Node(1, Loop(body, 3), {"state": Value(0)}))
    live.expand(1, {"state": TextValue("q")})
    for _ in range(2):
        live.expand(1, {"state": TextValue("q"), "done": Json(False)})
    assert len(set(seeds(live))) == 3


def test_the_steps_of_a_fold_sample_apart() -> None:
    again = replace(SAMPLED, messages=(Message("raw", (Slot("s"),)),))
    nodes = (Node(0, Input("state")), Node(1, Input("item", JSON)), Node(2, again, {"s": Value(0)}))
    live = live_with(
        Node(0, Input("q")),
        Node(1, Input("xs", JSON)),
        Node(2, Fold(Graph(nodes, (Value(2),))), {"state": Value(0), "items": Value(1)}),
    )
    live.expand(2, {"state": TextValue("q"), "items": Json([1, 2, 3])})
    assert len(set(seeds(live))) == 3
