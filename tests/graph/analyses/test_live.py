"""Forecasts of a run that grows are those of all that it has not done, however it came to be there."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from weft.graph.analyses.forecast import Forecast, forecasts
from weft.graph.analyses.live import LiveForecasts
from weft.graph.analyses.objectives import Objective
from weft.graph.deployment import Deployment
from weft.graph.estimate import Estimator
from weft.graph.ir import Graph, Node, Value
from weft.graph.observed import Observed
from weft.graph.ops.base import Op
from weft.graph.ops.common import Gather, Tool
from weft.graph.ops.control import Map

ESTIMATOR = Estimator(Deployment({}, ""), Observed())
CALL, LIST = Tool("t"), Gather("list")
CALL_MS = ESTIMATOR.duration_ms(Node(0, CALL))
LIST_MS = ESTIMATOR.duration_ms(Node(0, LIST))
BODY = Graph((), ())


class Run:
    """A run whose values become known and wanted as a test says."""

    def __init__(self) -> None:
        self.known: set[Value] = set()
        self.wanted: dict[Value, None] = {}
        self.live = LiveForecasts(ESTIMATOR, self.known, self.wanted.keys())

    def wants(self, *numbers: int) -> None:
        self.wanted |= dict.fromkeys(map(Value, numbers))

    def kinds(self, *nodes: Node) -> dict[int, str]:
        """The objectives that change with an increment."""
        return {number: it.objective.kind for number, it in self.live.grow(nodes).items()}


def node(number: int, *makers: int, op: Op = LIST) -> Node:
    return Node(number, op, {str(place): Value(maker) for place, maker in enumerate(makers)})


def test_what_nobody_waits_for_is_relabelled_when_somebody_does() -> None:
    run = Run()
    assert run.kinds(node(0, op=CALL), node(1, 0)) == {0: "throughput", 1: "throughput"}
    run.wants(1)
    assert run.kinds() == {0: "latency", 1: "latency"}
    assert run.kinds() == {}


def test_what_is_taken_together_later_becomes_a_task_group() -> None:
    run = Run()
    run.wants(*range(16))
    assert set(run.kinds(*(node(n, op=CALL) for n in range(16))).values()) == {"latency"}
    run.wanted.clear()
    run.wants(16)
    found = run.live.grow([node(16, *range(16))])
    assert found[16].objective.kind == "latency"
    assert {(found[n].objective.kind, found[n].objective.group) for n in range(16)} == {("group", 16)}
    assert {found[n].remaining_ms for n in range(16)} == {CALL_MS + LIST_MS}


def test_what_somebody_waits_for_stays_so_whoever_else_takes_it() -> None:
    run = Run()
    run.wants(0)
    run.kinds(node(0, op=CALL), node(1, op=CALL))
    run.wants(2)
    assert run.kinds(node(2, 0, 1)) == {0: "latency", 1: "group", 2: "latency"}


def test_what_is_done_is_not_looked_at_again() -> None:
    run = Run()
    run.kinds(node(0, op=CALL), node(1, 0, op=CALL))
    run.known.add(Value(0))
    run.wants(2)
    assert run.kinds(node(2, 0, 1)) == {1: "latency", 2: "latency"}


def test_bodies_of_a_map_lead_to_what_follows_on_it_while_it_stays_and_when_it_is_complete() -> None:
    run = Run()
    run.wants(2)
    mapped = node(1, 0, op=Map(BODY))
    found = run.live.grow([node(0, op=CALL), mapped, node(2, 1, op=CALL)])
    behind = found[1].remaining_ms - found[1].ms
    body = run.live.begin(1, [node(10, 0, op=CALL), node(11, 10)])
    assert body[10].remaining_ms == CALL_MS + LIST_MS + found[1].ms + behind
    two = run.live.begin(1, [node(12, 0, op=CALL), node(13, 12)])
    assert body[11].objective == two[13].objective == Objective("group", 2)  # as the map itself
    last = run.live.expand([node(14, 0, op=CALL), node(1, 11, 13, 14)])
    assert last[1].remaining_ms == LIST_MS + behind
    assert last[14].objective == Objective("group", 2)
    run.wants(20)
    again = run.live.grow([node(20, 2, op=CALL)])  # one more step behind it all
    assert again[10].remaining_ms == CALL_MS + 2 * LIST_MS + behind + CALL_MS


def test_bodies_are_reckoned_without_those_that_were_begun_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the bodies of a map take no longer the more there are."""
    run = Run()
    run.wants(1)
    run.live.grow([node(0, op=CALL), Node(1, Map(BODY), {"items": Value(0)})])
    looked_at: list[int] = []

    def counted(graph: Graph, *given: Any, **named: Any) -> dict[int, Forecast]:
        looked_at.append(sum(len(node.args) for node in graph))
        return forecasts(graph, *given, **named)

    monkeypatch.setattr("weft.graph.analyses.live.forecasts", counted)
    found = [run.live.begin(1, [node(number, 0, op=CALL)])[number] for number in range(10, 20)]
    assert len(set(looked_at)) == 1
    assert len(set(found)) == 1


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[list[Node]], list[set[int]]]:
    """Increments of a graph, and what is wanted with each."""
    increments: list[list[Node]] = []
    wanted: list[set[int]] = []
    count = 0
    for _ in range(draw(st.integers(1, 4))):
        nodes: list[Node] = []
        for _ in range(draw(st.integers(0, 4))):
            makers = draw(st.lists(st.integers(0, count - 1), max_size=3, unique=True)) if count else []
            nodes.append(node(count, *makers, op=draw(st.sampled_from([CALL, LIST]))))
            count += 1
        increments.append(nodes)
        wanted.append(draw(st.sets(st.integers(0, count - 1), max_size=2)) if count else set())
    return increments, wanted


@example(
    (
        [[node(0, op=CALL), node(1, op=CALL), node(2, op=CALL), node(3, 0, 1)], [node(4, 0, op=CALL)]],
        [{3}, set()],
    )
)
@settings(max_examples=300)
@given(histories())
def test_increments_and_the_whole_at_once_give_the_same_forecasts(
    history: tuple[list[list[Node]], list[set[int]]],
) -> None:
    run = Run()
    found: dict[int, Forecast] = {}
    for nodes, wants in zip(*history, strict=True):
        run.wants(*wants)
        found |= run.live.grow(nodes)
    every = tuple(node for nodes in history[0] for node in nodes)
    assert found == forecasts(Graph.inferred(every, tuple(run.wanted), "", {}, {}), ESTIMATOR)
