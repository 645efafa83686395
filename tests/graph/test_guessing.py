"""Folds that go on before they know their state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product, repeat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.graph.costs import DecodePoint, ModelCosts, PrefillPoint
from weft.graph.deployment import Deployment
from weft.graph.estimate import Estimator
from weft.graph.guessing import Folds, GuessedFold, width
from weft.graph.ir import Graph, Node, Value
from weft.graph.live import Growth
from weft.graph.observed import Observed, constancy_key
from weft.graph.ops.base import Op
from weft.graph.ops.common import Input, Tool
from weft.graph.ops.control import Fold, Map
from weft.graph.ops.primitive import Decode
from weft.graph.ops.user import Generate
from weft.graph.passes import GUESS
from weft.graph.prompt import Message, Slot
from weft.graph.types import STRINGS, TEXT
from weft.graph.values import Datum, Json, KvValue, TextValue

from .passes.clock import Rehearsal
from .passes.conftest import DEPLOYMENT, Engines, Interpreter

REFINE = Generate((Message("raw", (Slot("state"), "|", Slot("item"))),))
STEP = Graph(
    (
        Node(0, Input("state")),
        Node(1, Input("item")),
        Node(2, REFINE, {"state": Value(0), "item": Value(1)}, "refine"),
    ),
    (Value(2),),
)
SAME, STATE = "=", "s"


def folded(body: Graph = STEP) -> Graph:
    """The fold of a list that is given."""
    nodes = (
        Node(0, Input("items", STRINGS)),
        Node(1, Input("state")),
        Node(2, Fold(body), {"items": Value(0), "state": Value(1)}, "refining", "app.py:3"),
    )
    return Graph(nodes, (Value(2),))


def refined(items: Sequence[str]) -> str:
    """What the fold is to give."""
    return next((item for item in reversed(items) if item != SAME), STATE)


class Refining(Engines):
    """A model that repeats the state for some items, and takes the others in its place."""

    def compute(self, op: Op, args: Mapping[str, Datum]) -> tuple[Datum, ...]:
        if not isinstance(op, Decode):
            return super().compute(op, args)
        self.decodes += 1
        read = args["kv"]
        assert isinstance(read, KvValue)
        state, item = read.key.split("|")
        written = state if item == SAME else item
        return KvValue(read.key + written), TextValue(written)


class Noting(Interpreter):
    """Notes what is given up."""

    given_up: list[set[int]]

    def grow(self, growth: Growth) -> None:
        gone = set(growth.given_up)
        assert not gone & self.live.guesses
        self.given_up.append(gone)
        super().grow(growth)


def used_to(chance: float) -> Observed:
    """Earlier runs in which the state has stayed as it was so often."""
    observed = Observed()
    for number, place in product(range(200), range(4)):
        observed.happened(constancy_key(folded().nodes[-1], place), whether=number % 100 < 100 * chance)
    return observed


def rehearsed(
    items: Sequence[str], *disabled: str, observed: Observed | None = None, idle: bool = True
) -> Rehearsal:
    """A run in which the model writes each text for 10 ms."""
    run = Rehearsal(
        folded(),
        {"items": list(items), "state": STATE},
        lambda node, _: 10.0 if isinstance(node.op, Decode) else 0.0,
        disabled,
        observed=observed or used_to(1.0),
    )
    run.engines, run.idle = Refining(), idle
    assert run.run() == [refined(items)]
    return run


@pytest.mark.parametrize(
    ("items", "ms"),
    [
        (["="] * 6, 10.0),
        (["x", *["="] * 5], 20.0),
        (["=", "=", "x", "=", "=", "="], 20.0),
        (["x", "=", "y", "=", "z", "="], 40.0),
        (["x"], 10.0),
        ([], 0.0),
    ],
)
def test_a_fold_waits_only_where_its_state_changes(items: list[str], ms: float) -> None:
    assert rehearsed(items).now == ms
    assert rehearsed(items, GUESS).now == 10.0 * len(items)


def test_no_more_than_eight_begin_on_one_state() -> None:
    run = rehearsed(["="] * 20)
    first = run.of(Decode)[0]
    assert sum(other.overlaps(first) for other in run.of(Decode)) == 8
    assert run.now == 20.0 + 10.0, "then as many as have ended"


def test_what_comes_after_a_change_is_guessed_on_the_state_after_it() -> None:
    """The first items change it, as far as anybody knows, and the others do not."""
    observed, fold = used_to(1.0), folded().nodes[-1]
    for _ in range(200):
        observed.happened(constancy_key(fold, 0), whether=False)
    run = rehearsed(["x", *["="] * 4], observed=observed)
    assert (run.now, run.engines.decodes) == (20.0, 5), "nothing for nothing"
    run = rehearsed(["x", "=", "="], observed=observed)
    assert run.now == 30.0, "for two it is not worth giving up what can be read early"


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(["=", "=", "x", "y"]), max_size=12),
    st.integers(0, 99),
    st.floats(0, 1),
)
def test_guesses_change_no_result(items: list[str], seed: int, chance: float) -> None:
    inputs = {"items": items, "state": STATE}
    run = Interpreter(folded(), inputs, (), seed, Refining(), observed=used_to(chance))
    assert run.run() == [refined(items)]
    assert not run.live.guesses


def test_only_what_was_begun_on_a_wrong_state_is_given_up() -> None:
    inputs = {"items": ["=", "x", "y", "="], "state": STATE}
    run = Noting(folded(), inputs, (), 0, Refining(), observed=used_to(1.0))
    run.given_up = []
    run.run()
    assert [len(gone) for gone in run.given_up if gone] == [2, 1], "after x: y and =; after y: ="


@pytest.mark.parametrize("pure", [True, False])
def test_what_has_an_effect_is_not_done_on_a_guess(pure: bool) -> None:
    call = Node(3, Tool("note", TEXT, where="server", pure=pure), {"x": Value(2)})
    graph = folded(Graph((*STEP.nodes, call), (Value(3),)))
    run = Interpreter(graph, {"items": ["=", "="], "state": STATE}, (), 0, Refining())
    run.live.extend(graph, closed=True)
    fold = next(node for node in run.live.nodes.values() if isinstance(node.op, Fold))
    args: dict[str, Datum] = {"items": Json(["=", "="]), "state": TextValue(STATE)}
    growth = run.live.expand(fold.id, args, idle=True)
    assert isinstance(growth.nodes[-1].op, Fold) == pure


def test_models_that_are_busy_are_not_asked() -> None:
    assert rehearsed(["="] * 6, idle=False).now == 60.0


def test_it_is_learned_whether_guesses_are_right_and_without_any_whether_they_would_be() -> None:
    observed = Observed()
    key = constancy_key(folded().nodes[-1], 3)
    assert observed.chance(key) == 0.5
    costly = costs(read=1.0, write=1.0)
    for _ in range(3):
        rehearsed(list("xyxyxy"), observed=observed)
    assert observed.chance(key) < 0.2
    assert width(Fold(STEP), repeat(observed.chance(key)), costly) == 1
    for _ in range(12):
        rehearsed(["="] * 6, observed=observed, idle=False)
    assert observed.chance(key) > 0.8
    assert width(Fold(STEP), repeat(observed.chance(key)), costly) > 1


def costs(read: float, write: float, beside: float = 0.0) -> Estimator:
    """Of a model that reads a token in so many ms and writes one in so many, or beside another."""
    measured = ModelCosts(
        (PrefillPoint(0, 16, 1 + 16 * read), PrefillPoint(0, 256, 1 + 256 * read)),
        (DecodePoint(1, 64, write), DecodePoint(2, 64, write + beside)),
    )
    models = {name: replace(spec, costs=measured) for name, spec in DEPLOYMENT.models.items()}
    return Estimator(replace(DEPLOYMENT, models=models), Observed())


@pytest.mark.parametrize(
    ("chance", "estimator", "bodies"),
    [
        (1.0, costs(1.0, 1.0), 8),  # nothing can be lost
        (0.0, costs(0.01, 100.0), 1),
        (0.5, costs(0.01, 100.0), 8),  # writing is what takes time
        (0.5, costs(1.0, 1.0), 1),  # reading takes as long as writing
        (0.9, costs(1.0, 1.0), 4),  # 0.9 ** 4 of the fifth is not enough
        (0.9, costs(0.01, 1.0, beside=1.0), 1),  # nothing is won by writing both at once
    ],
)
def test_how_many_bodies_begin(chance: float, estimator: Estimator, bodies: int) -> None:
    assert width(Fold(STEP), repeat(chance), estimator) == bodies


def test_what_does_not_depend_on_the_state_is_not_lost() -> None:
    """Nor is it won: nobody waits for the state to write it."""
    aside = Node(2, replace(REFINE, messages=(Message("raw", (Slot("item"),)),)), {"item": Value(1)})
    free = Graph((*STEP.nodes[:2], aside), (Value(2),))
    assert width(Fold(free), repeat(0.99), costs(0.0, 1.0)) == 1
    inner = Graph(
        (Node(0, Input("item")), Node(1, REFINE, {"state": Value(0), "item": Value(0)})), (Value(1),)
    )
    deep = Graph(
        (Node(0, Input("state", STRINGS)), Node(1, Input("item")), Node(2, Map(inner), {"items": Value(0)})),
        (Value(2),),
    )
    assert width(Fold(deep), repeat(0.99), costs(0.0, 1.0)) == 8, "in a map over the state"


@pytest.mark.parametrize(
    ("one", "other"), [(1, True), (1, 1.0), ("1", 1), ({"a": 1, "b": 2}, {"b": 2, "a": 1})]
)
def test_states_that_read_differently_differ(one: object, other: object) -> None:
    known: dict[Value, Datum] = {Value(1): Json(other) if not isinstance(other, str) else TextValue(other)}
    folds = Folds(Estimator(Deployment({}, ""), Observed()), known, {})
    state = Json(one) if not isinstance(one, str) else TextValue(one)
    fold = folds.take(Node(2, Fold(STEP), {"state": Value(0), "items": Value(9)}), state)
    fold.row = [Value(1), Value(5)]
    assert folds.go_on(fold) == [Value(5)]
    assert (fold.state, fold.index, fold.row) == (Value(1), 1, [])
    assert isinstance(fold, GuessedFold)
