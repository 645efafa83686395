"""Places mean the same however a graph has grown."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from weft.graph.ir import Graph, Node, Value
from weft.graph.live import Growth
from weft.graph.ops.common import Const, Forward, Gather, Input, Tool
from weft.graph.ops.control import Loop, Map
from weft.graph.types import TEXT
from weft.runtime.orchestrator.journal_store import VERSION
from weft.runtime.orchestrator.places import Places

ITEM = Graph((Node(0, Input("item")),), (Value(0),), "body")
TURN = Graph((Node(0, Input("state")), Node(1, Const("true"))), (Value(0), Value(1)), "turn")


def send(number: int, origin: int) -> Node:
    return Node(number, Tool("send", TEXT, "server"), origin=origin)


def bodies(numbers: Sequence[int]) -> tuple[Node, ...]:
    """Bodies of a map: two tools each."""
    return tuple(send(number + origin, origin) for number in numbers for origin in (1, 2))


@pytest.mark.parametrize("cut", [0, 1, 2, 3])
def test_bodies_are_told_apart_by_their_items_however_many_begin_at_once(cut: int) -> None:
    numbers, found = [100, 200, 300], []
    for parts in ([numbers], [numbers[:cut], numbers[cut:]]):
        places = Places()
        places.add(Growth((send(7, 3), Node(8, Map(ITEM), origin=4))))
        for part in parts[:-1]:
            places.add(Growth(bodies(part), control=8))
        end = Node(8, Gather("list"), origin=4)
        places.add(Growth((*bodies(parts[-1]), end), replaces=True))
        found.append([places.of(number + origin) for number in numbers for origin in (1, 2)])
    assert found[0] == found[1]
    assert len({*found[0], places.of(7)}) == 7


def test_turns_are_told_apart_and_a_loop_stays_where_it_is() -> None:
    """A loop of two turns, with a map in each that is of another size."""
    places, found = Places(), []
    places.add(Growth((Node(5, Loop(TURN, 2), origin=1),)))
    loop = places.of(5)
    for turn, items in enumerate(([10], [20, 30])):
        inner = Node(50 + turn, Map(ITEM), origin=6)
        places.add(
            Growth((send(60 + turn, 7), inner, Node(5, Loop(TURN, 1 - turn), origin=1)), replaces=True)
        )
        found.append(places.of(60 + turn))
        assert places.of(5) == loop
        gathered = Node(inner.id, Gather("list"), origin=6)
        places.add(Growth((*bodies(items), gathered), replaces=True))
        found += [places.of(number + origin) for number in items for origin in (1, 2)]
    places.add(Growth((Node(5, Forward(TEXT), origin=1),), replaces=True))
    assert len(set(found)) == 2 + 2 + 4


def test_places_look_as_the_journals_of_this_version_have_them() -> None:
    places = Places()
    places.add(Growth((send(7, 3), Node(8, Map(ITEM), origin=4))))
    places.add(Growth(bodies([100, 200]), control=8))
    assert [places.of(number) for number in (7, 8, 101, 201)] == [
        "3 tool 0",
        "4 map 0",
        "4 map 0/1 tool 0",
        "4 map 0/1 tool 1",
    ]
    assert VERSION == 2  # to be raised with any change of these, and no older one is read then
