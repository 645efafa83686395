"""Maps and folds of many items: they begin in portions, and what comes out is what it was."""

from __future__ import annotations

from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from weft.graph import open_maps
from weft.graph.ir import Graph, Node, Value
from weft.graph.live import Growth, LiveGraph
from weft.graph.observed import Observed, constancy_key
from weft.graph.ops.common import Gather, Input
from weft.graph.ops.control import Map
from weft.graph.ops.primitive import Decode
from weft.graph.passes import GUESS
from weft.graph.types import STRINGS
from weft.graph.values import Json

from .passes.clock import Rehearsal
from .passes.conftest import DEPLOYMENT, Interpreter, programs
from .test_guessing import REFINE, STATE, STEP, Refining, folded, refined, rehearsed, used_to

TURNS = 10
AGAIN = tuple(Node(3 + n, REFINE, {"state": Value(2 + n), "item": Value(1)}) for n in range(TURNS - 1))
LONG = Graph((*STEP.nodes, *AGAIN), (Value(1 + TURNS),))


@settings(max_examples=200, deadline=None)
@given(programs(), st.integers(1, 9), st.integers(1, 3), st.integers(0, 99))
def test_portions_change_no_result(graph: Graph, at_once: int, concurrency: int, seed: int) -> None:
    inputs = {"p": "x", "q": ""}
    with patch.multiple(open_maps, _AT_ONCE=10**6, _CONCURRENCY=10**6):
        whole = Interpreter(graph, inputs, [GUESS])
        expected = whole.run()
    with patch.multiple(open_maps, _AT_ONCE=at_once, _CONCURRENCY=concurrency):
        portions = Interpreter(graph, inputs, [GUESS], seed)
        assert portions.run() == expected
        assert Interpreter(graph, inputs, [], seed).run() == expected
    assert portions.engines.decodes == whole.engines.decodes
    assert portions.engines.stored == whole.engines.stored


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from(["=", "=", "x", "y"]), max_size=20),
    st.integers(1, 9),
    st.integers(1, 3),
    st.floats(0, 1),
    st.integers(0, 99),
)
def test_a_fold_that_guesses_no_more_goes_on_in_portions(
    items: list[str], at_once: int, concurrency: int, chance: float, seed: int
) -> None:
    with patch.multiple(open_maps, _AT_ONCE=at_once, _CONCURRENCY=concurrency):
        inputs = {"items": items, "state": STATE}
        run = Interpreter(folded(), inputs, (), seed, Refining(), observed=used_to(chance))
        assert run.run() == [refined(items)]
        assert not run.live.guesses


class Counting(Rehearsal):
    """Counts what is begun at once, and what is there and not done, beside the fold."""

    sizes: list[int]
    ahead: int

    def grow(self, growth: Growth) -> None:
        self.sizes.append(sum(isinstance(node.op, Decode) for node in growth.nodes))
        super().grow(growth)
        self.ahead = max(self.ahead, sum(isinstance(node.op, Decode) for node in self.todo.values()))


def counted(body: Graph, items: int) -> Counting:
    inputs = {"items": ["="] * items, "state": STATE}
    run = Counting(folded(body), inputs, lambda node, _: float(isinstance(node.op, Decode)), [GUESS])
    run.engines, run.sizes, run.ahead = Refining(), [], 0
    assert run.run() == [STATE]
    return run


def test_of_a_fold_no_more_is_there_than_is_ahead() -> None:
    run = counted(STEP, 1000)
    assert max(run.sizes) == 64
    assert run.ahead == 2 * 64
    assert sum(run.sizes) == run.now == 1000


def test_long_bodies_begin_in_smaller_portions_of_which_more_are_ahead() -> None:
    """As many bodies are: what does not depend on the state keeps as many engines busy."""
    with patch.multiple(open_maps, _AT_ONCE=2 * (TURNS + 2), _CONCURRENCY=7):
        run = counted(LONG, 20)
    assert max(run.sizes) == TURNS * 2
    assert run.ahead == TURNS * (8 + 2)
    assert sum(run.sizes) == TURNS * 20


def test_a_fold_that_is_no_longer_than_a_portion_begins_as_a_whole() -> None:
    assert [size for size in counted(STEP, 64).sizes if size] == [64]


def test_a_map_all_of_whose_bodies_may_run_begins_in_portions() -> None:
    body = Graph(
        (Node(0, Input("item")), Node(1, REFINE, {"state": Value(0), "item": Value(0)})), (Value(1),)
    )
    nodes = (Node(0, Input("items", STRINGS)), Node(1, Map(body, 1000), {"items": Value(0)}))
    live = LiveGraph(DEPLOYMENT)
    *_, control = live.extend(Graph(nodes, (Value(1),)), closed=True)
    growth = live.expand(control.id, {"items": Json([str(number) for number in range(1000)])})
    begun = [growth]
    while growth.more:
        growth = live.advance(control.id)
        begun.append(growth)
    decodes = [sum(isinstance(node.op, Decode) for node in growth.nodes) for growth in begun]
    assert decodes == [192] * 5 + [40]
    assert [growth.control for growth in begun] == [control.id] * 5 + [None]
    assert isinstance(begun[-1].nodes[-1].op, Gather)


def test_the_first_states_of_a_fold_are_learned_from_though_they_begin_in_portions() -> None:
    observed = Observed()
    with patch.multiple(open_maps, _AT_ONCE=6, _CONCURRENCY=2):
        for _ in range(12):
            rehearsed(["="] * 6, observed=observed, idle=False)
    assert observed.chance(constancy_key(folded().nodes[-1], 3)) > 0.8
