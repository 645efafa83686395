from __future__ import annotations

from itertools import combinations, pairwise

from hypothesis import given
from hypothesis import strategies as st

from weft.frontend.report.layered import layout


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[int], list[tuple[int, int]]]:
    """Nodes in topological order, and edges."""
    nodes = list(range(draw(st.integers(1, 15))))
    pairs = list(combinations(nodes, 2))
    return nodes, sorted(draw(st.sets(st.sampled_from(pairs), max_size=25))) if pairs else []


@given(graphs())
def test_edges_run_downwards_and_nothing_overlaps(graph: tuple[list[int], list[tuple[int, int]]]) -> None:
    nodes, edges = graph
    plan = layout(nodes, edges)
    rows: dict[int, list[float]] = {}
    for node in nodes:
        rows.setdefault(plan.layer[node], []).append(plan.x[node])
    for source, target in edges:
        assert len(plan.bends[source, target]) == plan.layer[target] - plan.layer[source] - 1
    for row in rows.values():
        places = sorted(row)
        assert all(two - one > 1 - 1e-6 for one, two in pairwise(places))
    assert sorted(rows) == list(range(plan.layers))
    assert min(plan.x.values()) >= 0
    assert max(plan.x.values()) <= plan.width


def test_a_source_stands_right_above_what_it_feeds() -> None:
    plan = layout([0, 1, 3, 2], [(0, 1), (1, 2), (3, 2)])
    assert plan.layer == {0: 0, 1: 1, 2: 2, 3: 1}


def test_a_chain_is_straight_and_crossings_are_undone() -> None:
    assert set(layout([0, 1, 2], [(0, 1), (1, 2)]).x.values()) == {0.0}
    plan = layout([0, 1, 2, 3], [(0, 3), (1, 2)])
    assert (plan.x[0] < plan.x[1]) == (plan.x[3] < plan.x[2])


def test_an_empty_graph_has_no_layers() -> None:
    assert (layout([], []).layers, layout([], []).width) == (0, 0.0)
