from __future__ import annotations

from weft.graph.deployment import Deployment, ModelSpec
from weft.graph.ir import Graph, Node, Value
from weft.graph.ops.common import Input
from weft.graph.ops.control import Map
from weft.graph.ops.user import Generate
from weft.graph.plan import Plan, Plans
from weft.graph.prompt import Message, Slot
from weft.graph.types import STRINGS
from weft.graph.values import Json

DEPLOYMENT = Deployment({"m": ModelSpec("m", 4096)}, "m")
BODY = Graph(
    (Node(0, Input("item")), Node(1, Generate((Message("user", (Slot("i"),)),)), {"i": Value(0)})),
    (Value(1),),
)
SOURCE = Graph((Node(0, Input("xs", STRINGS)), Node(1, Map(BODY), {"items": Value(0)})), (Value(1),), "p")


def plan() -> Plan:
    return Plan.compile(SOURCE, DEPLOYMENT)


def test_runs_of_one_plan_do_not_see_each_other() -> None:
    compiled = plan()
    one, other = compiled.instantiate(), compiled.instantiate()
    (control,) = [node.id for node in compiled.nodes if isinstance(node.op, Map)]
    first = one.expand(control, {"items": Json(["a", "b"])})
    second = other.expand(control, {"items": Json(["c"])})
    assert len(first.nodes) > len(second.nodes)
    assert isinstance(compiled.live.nodes[control].op, Map)
    again = compiled.instantiate().expand(control, {"items": Json(["a", "b"])})
    assert again == first


def test_a_plan_is_found_again_until_what_it_was_made_for_changes() -> None:
    plans: Plans[Plan] = Plans(capacity=2)
    compiled = plan()
    assert plans.get("a", DEPLOYMENT, 0) is None
    plans.add("a", compiled, 1)
    assert plans.get("a", DEPLOYMENT, 0) is compiled
    plans.add("b", compiled, 1)
    plans.get("a", DEPLOYMENT, 0)
    plans.add("c", compiled, 1)
    assert plans.get("b", DEPLOYMENT, 0) is None  # used least recently
    assert plans.get("a", DEPLOYMENT, 1) is None  # predictions have moved
    plans.add("a", compiled, 1)
    assert plans.get("a", Deployment({}, ""), 1) is None  # other workers


def test_plans_of_large_programs_make_room_for_each_other() -> None:
    plans: Plans[Plan] = Plans(most_bytes=100)
    compiled = plan()
    assert plans.get("a", DEPLOYMENT, 0) is None
    for name, size in (("a", 40), ("b", 40), ("c", 40)):
        plans.add(name, compiled, size)
    assert [name for name in "abc" if plans.get(name, DEPLOYMENT, 0)] == ["b", "c"]
    plans.add("larger than all may be", compiled, 1000)
    assert plans.get("larger than all may be", DEPLOYMENT, 0) is compiled
    assert len(plans) == 1
    plans.get("a", DEPLOYMENT, 1)
    for name in "abc":
        plans.add(name, compiled, 30)
    assert len(plans) == 3


def test_a_bounded_map_begins_further_bodies_as_others_end() -> None:
    source = Graph((SOURCE.nodes[0], Node(1, Map(BODY, concurrency=2), {"items": Value(0)})), (Value(1),))
    live = Plan.compile(source, DEPLOYMENT).instantiate()
    control = live.resolve(Value(1)).node
    growth = live.expand(control, {"items": Json(["a", "b", "c", "d"])})
    assert not growth.replaces
    results = [Value(n.id, 1) for n in growth.nodes if n.op.label() == "decode"]
    assert len(results) == 2
    assert live.learned({results[1]: Json("B")}) == [control]
    (third,) = [Value(n.id, 1) for n in live.advance(control).nodes if n.op.label() == "decode"]
    assert live.learned({results[0]: Json("A")}) == [control]
    last = live.advance(control)
    assert last.replaces
    listed = last.nodes[-1].args
    assert [listed["0"], listed["1"], listed["2"]] == [results[0], results[1], third]
