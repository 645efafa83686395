"""Checks 4 to 7 of the acceptance list for splitting prompts, on graphs."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from weft.graph.costs import DecodePoint, ModelCosts, PrefillPoint
from weft.graph.deployment import Deployment, ModelSpec
from weft.graph.ir import Graph, Node, Value
from weft.graph.live import LiveGraph
from weft.graph.observed import Observed, duration_key
from weft.graph.ops.common import Const, Input, Search
from weft.graph.ops.primitive import Prefill
from weft.graph.ops.user import Generate
from weft.graph.prompt import Fixed, Message, Slot
from weft.graph.types import INTEGER

COSTS = ModelCosts(
    (PrefillPoint(0, 16, 2.6), PrefillPoint(0, 1024, 103.4), PrefillPoint(1024, 16, 2.6)),
    (DecodePoint(1, 64, 5.0), DecodePoint(8, 64, 8.0)),
)
DEPLOYMENT = Deployment({"m": ModelSpec("m", 4096, costs=COSTS)}, "m", indexes=frozenset({"docs"}))
HEAD = "Answer from the passages and cite them. " * 100  # about 1,000 tokens


def live_of(*parts: str | Slot, search_ms: float = 500.0) -> LiveGraph:
    """A prompt of `question`, which is there at once, and of `context`, which a search finds."""
    search = Node(2, Search("docs", "lexical"), {"query": Value(0), "k": Value(1)}, location="app.py:2")
    slots = {part.name for part in parts if isinstance(part, Slot)}
    args = {name: value for name, value in {"q": Value(0), "c": Value(2)}.items() if name in slots}
    generate = Node(3, Generate((Message("raw", parts),)), args, location="app.py:3")
    observed = Observed()
    for _ in range(8):
        observed.add(duration_key(search), search_ms)
    live = LiveGraph(DEPLOYMENT, observed=observed)
    nodes = (Node(0, Input("q")), Node(1, Const("3", INTEGER)), search, generate)
    live.extend(Graph(nodes, (Value(3),)), closed=True)
    return live


def segments(live: LiveGraph) -> list[list[str]]:
    """The chain of prefills; slots by their names."""
    prefills = [node.op for node in live.nodes.values() if isinstance(node.op, Prefill)]
    return [[p.text if isinstance(p, Fixed) else p.name for p in op.pieces] for op in prefills]


def refusals(live: LiveGraph) -> Sequence[tuple[int, str]]:
    (report,) = [report for report in live.reports if report.name == "split_prefill"]
    return [(note.node, note.rule) for note in report.refusals]


def test_what_is_known_is_read_while_the_rest_is_searched_for() -> None:
    live = live_of(HEAD, Slot("q"), "\n", Slot("c"), "\nAnswer:")
    assert segments(live) == [[HEAD, "q", "\n"], ["c", "\nAnswer:"]]


def test_a_prompt_that_begins_with_the_late_value_reads_its_head_only() -> None:
    assert segments(live_of(HEAD, Slot("c"), "\n", Slot("q"))) == [[HEAD], ["c", "\n", "q"]]


def test_a_prompt_of_one_variable_reads_its_head() -> None:
    assert segments(live_of(HEAD, Slot("c"))) == [[HEAD], ["c"]]


def test_a_prompt_whose_parts_are_known_together_stays_whole() -> None:
    live = live_of(HEAD, Slot("q"), "\nAnswer:")
    assert segments(live) == [[HEAD, "q", "\nAnswer:"]]
    assert [rule for _, rule in refusals(live)] == ["known together"]


@pytest.mark.parametrize(("head", "search_ms"), [("Answer: ", 500.0), (HEAD, 0.5), ("Answer: ", 0.0)])
def test_a_cut_that_saves_less_than_it_costs_is_refused_by_name(head: str, search_ms: float) -> None:
    live = live_of(head, Slot("c"), search_ms=search_ms)
    assert len(segments(live)) == 1
    assert [rule for _, rule in refusals(live)] == ["saves less than it costs"]


def refine_chain(costs: ModelCosts | None) -> LiveGraph:
    """Three steps, each with the question, the passage and the answer so far, in that order."""
    nodes = [Node(0, Input("q")), Node(1, Const("3", INTEGER))]
    nodes.append(Node(2, Search("docs", "lexical"), {"query": Value(0), "k": Value(1)}))
    answer: Value | None = None
    for step in range(3):
        parts: tuple[str | Slot, ...] = (HEAD, Slot("q"), " ", Slot("c"))
        args = {"q": Value(0), "c": Value(2)}
        if answer is not None:
            parts, args = (*parts, " so far: ", Slot("a")), args | {"a": answer}
        nodes.append(Node(3 + step, Generate((Message("raw", (*parts, f" step {step}")),)), args))
        answer = Value(3 + step)
    observed = Observed()
    for _ in range(8):
        observed.add(duration_key(nodes[2]), 500.0)
    deployment = Deployment({"m": ModelSpec("m", 4096, costs=costs)}, "m", indexes=frozenset({"docs"}))
    live = LiveGraph(deployment, observed=observed)
    assert answer is not None
    live.extend(Graph(tuple(nodes), (answer,)), closed=True)
    return live


def test_every_step_of_a_refine_chain_reads_what_comes_before_its_passage() -> None:
    live = refine_chain(costs=None)
    prefills = {n.id: n for n in live.nodes.values() if isinstance(n.op, Prefill)}
    heads = [n for n in prefills.values() if set(n.args) == {"q"}]
    assert len(heads) == 1  # instruction and question are read once, before the search has ended
    with_passage = [n for n in prefills.values() if "c" in n.args]
    assert {n.args["kv"].node for n in with_passage} == {heads[0].id}
    with_answer = [n for n in prefills.values() if "a" in n.args]
    assert len(with_answer) == 2
    assert all("c" in prefills[n.args["kv"].node].args for n in with_answer)  # before the answer is known


def test_what_a_model_would_read_beside_its_own_writing_is_not_cut_where_that_is_known_to_gain_nothing() -> (
    None
):
    live = refine_chain(COSTS)
    with_answer = [n for n in live.nodes.values() if isinstance(n.op, Prefill) and "a" in n.args]
    assert len(with_answer) == 2
    assert all("c" in node.args for node in with_answer)  # passage and answer are read together
    (report,) = [report for report in live.reports if report.name == "split_prefill"]
    texts = [note.text for note in report.refusals if note.rule == "saves less than it costs"]
    assert len(texts) == 2
    assert all("its processor at work for" in text for text in texts)
