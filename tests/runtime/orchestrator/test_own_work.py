from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from weft.graph.ir import Node, Value
from weft.graph.ops.common import Forward, Gather, Input
from weft.graph.types import TEXT
from weft.runtime.orchestrator.own_work import OwnWork


def gather(number: int, *takes: Value) -> Node:
    return Node(number, Gather("list"), {str(place): value for place, value in enumerate(takes)})


def test_what_takes_only_known_values_can_be_computed_at_once() -> None:
    own = OwnWork({Value(1)})
    own.add([gather(5, Value(1), Value(1)), Node(6, Input("x"))])
    assert own.take() == [5]
    assert own.take() == []


def test_a_value_that_is_taken_twice_counts_once() -> None:
    own = OwnWork(set[Value]())
    own.add([gather(5, Value(1), Value(1), Value(2))])
    own.learned([Value(1)])
    assert own.take() == []
    own.learned([Value(2)])
    assert own.take() == [5]


def test_a_successor_of_a_control_node_is_work_like_any_other() -> None:
    own = OwnWork({Value(1)})
    own.add([Node(5, Forward(TEXT), {"value": Value(1)})])
    assert own.take() == [5]


@given(st.data())
def test_every_node_can_be_computed_once_and_after_what_it_takes(data: st.DataObject) -> None:
    nodes = [
        gather(number, *(Value(taken) for taken in data.draw(st.sets(st.integers(0, number - 1)))))
        for number in range(3, 12)
    ]
    known: set[Value] = set()
    own = OwnWork(known)
    sources = data.draw(st.permutations([Value(0), Value(1), Value(2)]))
    cut = data.draw(st.integers(0, len(nodes)))
    computed: list[int] = []

    def learn(value: Value) -> None:
        known.add(value)
        own.learned([value])

    def compute() -> None:
        while due := own.take():
            for number in due:
                assert known >= set(nodes[number - 3].args.values())
                computed.append(number)
                learn(Value(number))

    own.add(nodes[:cut])
    compute()
    learn(sources[0])
    compute()
    own.add(nodes[cut:])
    for value in sources[1:]:
        learn(value)
        compute()
    assert sorted(computed) == [node.id for node in nodes]
