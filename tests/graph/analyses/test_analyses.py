from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from weft.graph.analyses.depth import critical_path, depth, remaining_ms
from weft.graph.analyses.objectives import objectives
from weft.graph.analyses.times import finish_ms
from weft.graph.ir import Graph, Node, Value
from weft.graph.ops.base import Op
from weft.graph.ops.common import Gather, Input
from weft.graph.ops.optimized import Element
from weft.graph.ops.primitive import Decode, Prefill
from weft.graph.prompt import Fixed, Slot
from weft.graph.sampling import JsonSchema
from weft.graph.types import TEXT


@st.composite
def dags(draw: st.DrawFn) -> Graph:
    nodes: list[Node] = []
    for number in range(draw(st.integers(1, 9))):
        makers = draw(st.lists(st.integers(0, number - 1), max_size=3, unique=True)) if number else []
        nodes.append(Node(number, Gather("list"), {str(i): Value(m) for i, m in enumerate(makers)}))
    return Graph(tuple(nodes), (Value(len(nodes) - 1),))


def paths(graph: Graph, node: int) -> list[list[int]]:
    """Every way from a node to where it ends, by search."""
    users = [n.id for n in graph if Value(node) in n.args.values()]
    return [[node, *rest] for user in users for rest in paths(graph, user)] or [[node]]


@given(dags(), st.lists(st.integers(1, 50), min_size=9, max_size=9))
def test_depth_remaining_time_and_critical_path_are_those_of_the_longest_way(
    graph: Graph, costs: list[int]
) -> None:
    def duration(node: Node) -> float:
        return costs[node.id]

    longest = {n.id: max(sum(costs[i] for i in way) for way in paths(graph, n.id)) for n in graph}
    assert remaining_ms(graph, duration) == longest
    assert depth(graph) == {n.id: max(map(len, paths(graph, n.id))) - 1 for n in graph}
    path = critical_path(graph, duration)
    assert sum(costs[node] for node in path) == max(longest.values())
    assert max(finish for _, finish in finish_ms(graph, duration).values()) == max(longest.values())
    assert all(Value(a) in graph.by_id[b].args.values() for a, b in pairwise(path))


def test_known_values_and_those_from_outside_are_there_at_once() -> None:
    nodes = (Node(1, Gather("list"), {"0": Value(0)}), Node(2, Gather("list"), {"0": Value(1)}))
    graph = Graph(nodes, (), outside={Value(0): TEXT})
    assert finish_ms(graph, lambda _: 2) == {1: (0, 2), 2: (2, 4)}
    assert finish_ms(graph, lambda _: 2, {Value(1)}) == {1: (0, 2), 2: (0, 2)}


def test_parts_of_a_text_are_expected_before_its_end() -> None:
    schema = '{"properties":{"a":{"type":"string"},"b":{"type":"string"}},"type":"object"}'
    nodes = (
        Node(0, Prefill("m", (Fixed("x"),))),
        Node(1, Decode("m", constraint=JsonSchema(schema)), {"kv": Value(0)}),
        Node(2, Element(("a",), TEXT), {"text": Value(1, 1)}),
        Node(3, Element((), TEXT), {"text": Value(1, 1)}),
    )
    times = finish_ms(Graph(nodes, ()), lambda node: 100 if isinstance(node.op, Decode) else 0)
    assert (times[2][0], times[3][0]) == (50, 100)


def fan(count: int) -> Graph:
    """An input, `count` maps of it, a reduction, and a last step."""
    maps = tuple(Node(1 + n, Gather("list"), {"0": Value(0)}) for n in range(count))
    reduce = Node(50, Gather("list"), {str(n): Value(1 + n) for n in range(count)})
    return Graph(
        (Node(0, Input("x")), *maps, reduce, Node(51, Gather("list"), {"0": Value(50)})), (Value(51),)
    )


def test_siblings_before_what_somebody_waits_for_are_a_task_group() -> None:
    found = objectives(fan(16), {Value(51): "latency"})
    assert found[51].kind == found[50].kind == "latency"
    assert {(found[1 + n].kind, found[1 + n].group) for n in range(16)} == {("group", 50)}


def test_what_feeds_the_parts_of_a_cut_prompt_is_a_task_group_too() -> None:
    """Four texts, each written by a call of its own, are read one by one into the prompt of a fifth."""
    nodes: list[Node] = []

    def add(op: Op, **args: Value) -> Node:
        nodes.append(Node(len(nodes), op, args))
        return nodes[-1]

    texts = []
    for number in range(4):
        read = add(Prefill("m", (Fixed(f"chunk {number}"),)))
        texts.append(add(Decode("m"), kv=Value(read.id)))
    chain = [add(Prefill("m", (Fixed("summaries:"),)))]
    for text in texts:
        slot = Prefill("m", (Slot("text"),))
        chain.append(add(slot, kv=Value(chain[-1].id), text=Value(text.id, 1)))
    last = add(Decode("m"), kv=Value(chain[-1].id))
    found = objectives(Graph(tuple(nodes), (Value(last.id, 1),)), {Value(last.id, 1): "latency"})
    assert {(found[text.id].kind, found[text.id].group) for text in texts} == {("group", last.id)}
    assert {found[part.id].kind for part in [*chain, last]} == {"latency"}
    alone = objectives(Graph(tuple(nodes[:3]), ()), {Value(1, 1): "latency"})
    assert alone[1].kind == alone[0].kind == "latency"


def test_what_nobody_waits_for_is_run_for_throughput_until_somebody_does() -> None:
    graph = fan(4)
    assert {objective.kind for objective in objectives(graph, {Value(51): "throughput"}).values()} == {
        "throughput"
    }
    both = objectives(graph, {Value(51): "throughput", Value(50): "latency"})
    assert (both[51].kind, both[50].kind, both[1].kind) == ("throughput", "latency", "group")
