"""Which nodes of a growing run nobody needs."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.graph.ir import Graph, Node, Value
from weft.graph.live import Growth
from weft.graph.ops.base import Op
from weft.graph.ops.common import Format, Gather, Input, Interrupt, Project, Search, Tool
from weft.graph.ops.control import Fold, Map
from weft.graph.ops.primitive import Decode, Prefill, Upsert
from weft.graph.types import TEXT
from weft.runtime.orchestrator.needs import Needs

PREFILL, DECODE, VIEW, EFFECT = Prefill("m", ()), Decode("m"), Format(()), Tool("note", TEXT)
PURE, ASK, UPSERT = Tool("look", TEXT, pure=True), Interrupt(TEXT), Upsert("notes")
MAP = Map(Graph((Node(0, Input("item")),), (Value(0),)))
FOLD = Fold(Graph((Node(0, Input("state")),), (Value(0),)))


class World:
    """A graph, node by node; all of it is pending unless it is said to be done."""

    def __init__(self) -> None:
        self.nodes: dict[int, Node] = {}
        self.pending: set[int] = set()
        self.wanted: set[Value] = set()
        self.needs = Needs(self.nodes, self.pending, self.wanted)

    def add(self, op: Op, *operands: int, part_of: int | None = None) -> int:
        number = len(self.nodes)
        self.nodes[number] = Node(number, op, {f"x{index}": Value(x) for index, x in enumerate(operands)})
        self.pending.add(number)
        self.needs.add(Growth((self.nodes[number],), control=part_of))
        return number

    def text(self, *operands: int) -> int:
        """What a model writes."""
        return self.add(DECODE, self.add(PREFILL, *operands))

    def unneeded(self, *withdrawn: int, begun: Iterable[int] = (), failed: Iterable[int] = ()) -> set[int]:
        for number in withdrawn:
            self.needs.withdraw(number)
        for number in failed:
            self.needs.fail(number)
        return self.needs.unneeded(set(begun))


@pytest.fixture
def world() -> World:
    return World()


def test_what_is_withdrawn_and_what_only_that_takes(world: World) -> None:
    draft = world.text()
    better = world.text(draft)
    world.text()
    assert world.unneeded() == set()
    assert world.unneeded(better) == {draft - 1, draft, better - 1, better}


def test_what_somebody_else_takes_is_needed(world: World) -> None:
    prompt = world.add(PREFILL)
    left, right = world.add(DECODE, prompt), world.add(DECODE, prompt)
    assert world.unneeded(left) == {left}
    assert world.unneeded(right) == {left, right, prompt}


def test_what_is_taken_by_what_was_not_withdrawn_is_needed(world: World) -> None:
    draft = world.text()
    better = world.text(draft)
    assert world.unneeded(draft) == set()
    assert world.unneeded(better) == {draft - 1, draft, better - 1, better}


def test_what_is_waited_for_is_needed_with_all_that_it_takes(world: World) -> None:
    draft = world.text()
    better = world.text(draft)
    world.wanted.add(Value(draft))
    assert world.unneeded(better) == {better - 1, better}
    world.wanted.add(Value(better))
    assert world.unneeded() == set()
    world.wanted.clear()
    assert world.unneeded() == {draft - 1, draft, better - 1, better}


def test_a_mere_look_at_what_is_withdrawn_does_not_keep_it(world: World) -> None:
    plan = world.text()
    field = world.add(Project("steps"), plan)
    world.add(Gather("list"), field, field)
    assert world.unneeded(plan) == {plan - 1, plan}
    used = world.text(field)
    assert world.unneeded() == set()
    assert world.unneeded(used) == {plan - 1, plan, field, used - 1, used}


def test_what_is_done_is_nobodys_concern(world: World) -> None:
    draft = world.text()
    world.pending.discard(draft - 1)
    assert world.unneeded(draft) == {draft}
    world.pending.discard(draft)
    assert world.unneeded() == set()


def test_an_effect_is_given_up_only_if_it_is_withdrawn_itself(world: World) -> None:
    source = world.text()
    noted = world.add(EFFECT, source)
    answer = world.text(noted)
    assert world.unneeded(answer) == {answer - 1, answer}
    assert world.unneeded(noted) == {source - 1, source, noted, answer - 1, answer}
    assert world.unneeded(begun=[noted]) == {answer - 1, answer}


def test_a_tool_that_has_begun_is_not_called_back(world: World) -> None:
    seen = world.add(PURE)
    assert world.unneeded(seen, begun=[seen]) == set()
    assert world.unneeded() == {seen}


def test_a_question_is_asked_for_its_answer_alone(world: World) -> None:
    answer = world.add(ASK)
    text = world.text(answer)
    assert world.unneeded(text) == {answer, text - 1, text}


def test_an_index_is_filled_whoever_waits_for_that(world: World) -> None:
    stored = world.add(UPSERT)
    found = world.add(Search("notes"), stored)
    assert world.unneeded(found) == {found}
    assert world.unneeded(stored) == {found}


def test_what_waits_in_vain_is_not_waited_for_if_it_is_withdrawn(world: World) -> None:
    text = world.text()
    noted, stored = world.add(EFFECT, text), world.add(UPSERT, text)
    prompt = text - 1
    assert world.unneeded(stored, begun=[noted], failed=[text]) == {stored}
    assert world.unneeded(noted, begun=[noted]) == {prompt, text, noted, stored}
    assert world.unneeded(failed=[prompt]) == {prompt, text, noted, stored}


def test_the_bodies_of_a_map_go_with_it(world: World) -> None:
    listed = world.text()
    mapped = world.add(MAP, listed)
    first = world.add(DECODE, world.add(PREFILL, listed, part_of=mapped), part_of=mapped)
    noted = world.add(EFFECT, first, part_of=mapped)
    assert world.unneeded(mapped) == {listed - 1, listed, mapped, first - 1, first, noted}
    world.pending -= {listed - 1, listed, first - 1, first}
    assert world.unneeded(begun=[noted]) == {mapped}


def test_a_fold_that_guesses_no_more_needs_all_that_it_becomes_from_then_on(world: World) -> None:
    fold = world.add(FOLD, world.text())
    wrong = world.text()
    guessed = (world.nodes[wrong - 1], world.nodes[wrong], world.nodes[fold])
    world.needs.add(Growth(guessed, replaces=True))
    ahead = world.add(DECODE, part_of=fold)
    one, other = world.text(fold), world.text(fold)
    assert world.unneeded(wrong, one) == {wrong - 1, wrong, one - 1, one}
    assert world.unneeded(other) >= {wrong, fold, ahead, other}


OPS = (PREFILL, DECODE, VIEW, EFFECT, PURE, ASK, UPSERT, MAP)


@given(st.data())
def test_in_any_graph_it_is_what_is_given_up_and_serves_nobody(data: st.DataObject) -> None:
    """The same, asked of each node: whether any way from it leads to who needs it."""
    world, part_of = World(), dict[int, int]()

    def outermost(number: int) -> int:
        return outermost(part_of[number]) if number in part_of else number

    for number in range(data.draw(st.integers(1, 12))):
        operands = data.draw(st.sets(st.integers(0, number - 1), max_size=3)) if number else ()
        maps = [n for n in world.pending if world.nodes[n].op is MAP]
        may_hold = [m for m in maps if all(o < outermost(m) or part_of.get(o) == m for o in operands)]
        control = data.draw(st.sampled_from([None, *may_hold]))
        world.add(data.draw(st.sampled_from(OPS)), *operands, part_of=control)
        if control is not None:
            part_of[number] = control
    some = st.sets(st.sampled_from(sorted(world.nodes)))
    withdrawn, wanted, begun, failed = (data.draw(some) for _ in range(4))
    world.pending -= data.draw(some)
    world.wanted |= {Value(number) for number in wanted}

    def takers(number: int) -> set[int]:
        found = {n.id for n in world.nodes.values() if Value(number) in n.args.values()}
        return (found | ({part_of[number]} if number in part_of else set())) & world.pending

    @cache
    def given_up(number: int) -> bool:
        return number in withdrawn or any(map(given_up, takers(number)))

    @cache
    def called_off(number: int) -> bool:
        control = part_of.get(number)
        return number in withdrawn or (control in world.pending and called_off(control))

    @cache
    def hopeless(number: int) -> bool:
        takes = {value.node for value in world.nodes[number].args.values()}
        parts = {part for part, control in part_of.items() if control == number}
        return number in failed or any(map(hopeless, (takes | parts) & world.pending))

    @cache
    def needed(number: int) -> bool:
        op = world.nodes[number].op
        if number in wanted or (number in begun and not hopeless(number)):
            return True
        if (op is UPSERT and not hopeless(number)) or (op in (UPSERT, EFFECT) and not called_off(number)):
            return True
        if op is not VIEW and not given_up(number):
            return True
        return any(map(needed, takers(number)))

    expected = {number for number in world.pending if given_up(number) and not needed(number)}
    assert world.unneeded(*withdrawn, begun=begun, failed=failed) == expected
