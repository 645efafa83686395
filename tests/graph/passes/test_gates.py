"""What measured profiles open and close: cuts, streamed lists and shared heads, on graphs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.graph.costs import DecodePoint, ModelCosts, PrefillPoint
from weft.graph.deployment import Deployment, ModelSpec
from weft.graph.estimate import Estimator
from weft.graph.ir import Graph, Node, Value
from weft.graph.live import LiveGraph
from weft.graph.observed import Observed, duration_key
from weft.graph.ops.base import Op
from weft.graph.ops.common import Const, Embed, Format, Input, Search, Tool
from weft.graph.ops.control import Map
from weft.graph.ops.optimized import Element
from weft.graph.ops.primitive import Decode, Prefill
from weft.graph.ops.user import Generate
from weft.graph.passes.beside import beside_ms
from weft.graph.passes.gates import competing, shared_ms
from weft.graph.prompt import Message, Slot
from weft.graph.sampling import JsonSchema, Sampling
from weft.graph.types import INTEGER, STRINGS

STEP_MS = 6.0  # the fixed cost of a step, of reading as of writing
COSTS = ModelCosts(
    tuple(PrefillPoint(0, n, STEP_MS + 0.08 * n) for n in (16, 256, 1024)),
    tuple(DecodePoint(b, 64, STEP_MS + 0.1 * b) for b in (1, 4, 16)),
)
CORES, GPU = "host/cpu", "host/cuda:0"
RETRIEVAL = {"embed": CORES, "index": CORES}
HEAD = "Answer from the passages and cite them. " * 100  # about 1,000 tokens


def measured(processor: str) -> Deployment:
    """A measured model there, and retrieval on the cores of the host."""
    return Deployment(
        {"m": ModelSpec("m", 4096, costs=COSTS, processor=processor)}, "m", processors=RETRIEVAL
    )


ON_CORES, ON_GPU = measured(CORES), measured(GPU)
UNMEASURED = Deployment({"m": ModelSpec("m", 4096)}, "m")


def compiled(deployment: Deployment, *nodes: Node) -> LiveGraph:
    """A program whose searches and tools take half a second."""
    observed = Observed()
    for node in nodes:
        if isinstance(node.op, Search | Tool):
            for _ in range(8):
                observed.add(duration_key(node), 500.0)
    live = LiveGraph(deployment, observed=observed)
    live.extend(Graph(nodes, (Value(nodes[-1].id),)), closed=True)
    return live


def count(live: LiveGraph, kind: type[Op]) -> int:
    return sum(isinstance(node.op, kind) for node in live.nodes.values())


def rules(live: LiveGraph, name: str) -> list[str]:
    (report,) = [report for report in live.reports if report.name == name]
    return [note.rule for note in report.refusals]


def waiting_for(op: Op) -> tuple[Node, ...]:
    """A prompt whose end something has to find."""
    args = {"query": Value(0), "k": Value(1)} if isinstance(op, Search) else {"query": Value(0)}
    ask = Generate((Message("raw", (HEAD, Slot("c"))),))
    return (
        Node(0, Input("q")),
        Node(1, Const("3", INTEGER)),
        Node(2, op, args),
        Node(3, ask, {"c": Value(2)}),
    )


SEARCH = Search("docs", "lexical")


@pytest.mark.parametrize(
    ("deployment", "waits_for", "prefills"),
    [(ON_CORES, SEARCH, 1), (ON_GPU, SEARCH, 2), (UNMEASURED, SEARCH, 2), (ON_CORES, Tool("t"), 2)],
)
def test_a_head_is_read_early_only_while_its_processor_has_nothing_else_to_do(
    deployment: Deployment, waits_for: Op, prefills: int
) -> None:
    live = compiled(deployment, *waiting_for(waits_for))
    assert count(live, Prefill) == prefills
    assert rules(live, "split_prefill") == ["saves less than it costs"] * (2 - prefills)


def test_a_refused_cut_says_for_how_long_its_processor_is_at_work() -> None:
    live = compiled(ON_CORES, *waiting_for(SEARCH))
    (report,) = [report for report in live.reports if report.name == "split_prefill"]
    assert "with a wait of 520.1 ms, its processor at work for 520.1 of it," in report.refusals[0].text


def listing(op: Op) -> tuple[Node, ...]:
    """A list that a model writes, and what takes it."""
    ask = Generate((Message("raw", ("List: ", Slot("q"))),), STRINGS, constraint=JsonSchema(STRINGS.schema))
    args = {"query": Value(1), "k": Value(2)} if isinstance(op, Search) else {"items": Value(1)}
    return (
        Node(0, Input("q")),
        Node(1, ask, {"q": Value(0)}),
        Node(2, Const("3", INTEGER)),
        Node(3, op, args),
    )


def mapped(op: Op, concurrency: int = 0, **args: Value) -> Map:
    body = Graph((Node(0, Input("item")), Node(1, op, args)), (Value(1),))
    return Map(body, concurrency=concurrency)


ASK = Generate((Message("user", (Slot("i"),)),), sampling=Sampling(max_tokens=8))
WRITES = mapped(ASK, i=Value(0))
FORMATS = mapped(Format((Slot("i"), "!")), i=Value(0))
VECTORS = Search("docs", "hybrid")


@pytest.mark.parametrize(
    ("deployment", "consumer", "streamed"),
    [
        (ON_CORES, VECTORS, False),  # the same cores embed and search
        (ON_GPU, VECTORS, True),
        (UNMEASURED, VECTORS, True),
        (ON_CORES, WRITES, False),  # all are written in the same steps, which the last item begins
        (ON_CORES, mapped(ASK, 1, i=Value(0)), True),  # each shares the steps of the list
        (ON_CORES, mapped(Tool("t"), query=Value(0)), True),  # how its times spread is not known yet
        (UNMEASURED, FORMATS, False),  # worth less than a message
    ],
)
def test_items_leave_one_by_one_if_what_is_done_with_them_is_worth_its_messages(
    deployment: Deployment, consumer: Op, streamed: bool
) -> None:
    live = compiled(deployment, *listing(consumer))
    assert any(isinstance(node.op, Element) for node in live.nodes.values()) is streamed
    consumers = 2 if isinstance(consumer, Search) else 1  # what embeds the list, and the search
    refusals = [] if streamed else ["saves less than it costs"] * consumers
    assert rules(live, "pipeline_decode") == refusals


def test_the_embeddings_of_a_search_that_is_not_streamed_are_kept() -> None:
    live = compiled(ON_CORES, *listing(VECTORS))
    (embed,) = [node for node in live.nodes.values() if isinstance(node.op, Embed)]
    (search,) = [node for node in live.nodes.values() if isinstance(node.op, Search)]
    assert search.args["vectors"] == Value(embed.id)
    assert search.args["query"] == embed.args["texts"]


@pytest.mark.parametrize(("deployment", "heads"), [(ON_CORES, 0), (ON_GPU, 1)])
def test_what_a_streamed_list_is_searched_for_is_waited_for_like_one_search(
    deployment: Deployment, heads: int
) -> None:
    ask = Generate((Message("raw", (HEAD, Slot("c"))),))
    live = compiled(deployment, *listing(VECTORS), Node(4, ask, {"c": Value(3)}))
    assert count(live, Map) == heads  # the list is streamed where retrieval has a processor of its own
    assert count(live, Prefill) == 2 + heads


@pytest.mark.parametrize(("body", "prefills"), [(WRITES, 2), (mapped(Tool("t"), query=Value(0)), 3)])
def test_a_map_competes_as_what_it_maps_does(body: Map, prefills: int) -> None:
    ask = Generate((Message("raw", (HEAD, Slot("c"))),))
    live = compiled(ON_CORES, *listing(body), Node(4, ask, {"c": Value(3)}))
    assert count(live, Prefill) == prefills


def asking(head: str, prompts: int) -> tuple[Node, ...]:
    """Prompts that begin alike."""
    asks = [
        Node(1 + n, Generate((Message("raw", (head, f"Way {n}: ", Slot("q"))),)), {"q": Value(0)})
        for n in range(prompts)
    ]
    listed = {str(n): Value(1 + n) for n in range(prompts)}
    return (Node(0, Input("q")), *asks, Node(99, Format(tuple(map(Slot, listed))), listed))


@pytest.mark.parametrize(
    ("deployment", "head", "prompts", "heads"),
    [
        (UNMEASURED, HEAD, 2, 1),  # nobody knows whether its engine finds what it has read
        (ON_CORES, HEAD, 2, 0),  # the engine finds it
        (ON_CORES, HEAD, 8, 1),  # cutting the head into tokens eight times takes longer than a step
        (ON_CORES, "Answer. ", 8, 0),
    ],
)
def test_a_head_is_a_node_of_its_own_if_that_saves_what_the_engine_would_not(
    deployment: Deployment, head: str, prompts: int, heads: int
) -> None:
    live = compiled(deployment, *asking(head, prompts))
    assert count(live, Prefill) == prompts + heads
    assert count(live, Decode) == prompts


@given(st.integers(0, 40_000), st.integers(1, 64), st.sampled_from([ON_CORES, UNMEASURED]))
def test_sharing_saves_the_more_the_longer_the_head_and_the_more_prompts(
    characters: int, prompts: int, deployment: Deployment
) -> None:
    saved = shared_ms(deployment, "m", characters, prompts)
    assert saved <= shared_ms(deployment, "m", characters + 400, prompts)
    assert saved <= shared_ms(deployment, "m", characters, prompts + 1)
    assert shared_ms(deployment, "m", characters, 1) < 0


def test_engines_compete_where_a_worker_has_said_that_they_share_a_processor() -> None:
    other = ModelSpec("other", 99, costs=COSTS, processor=GPU)
    models = {**ON_CORES.models, "other": other, "unknown": ModelSpec("unknown", 99, costs=COSTS)}
    deployment = replace(ON_CORES, models=models)
    own, far, search = Node(0, Decode("m")), Node(1, Decode("other")), Node(2, SEARCH)
    nodes = (own, far, search, Node(3, Tool("t")), Node(4, Format(())))
    assert [competing(deployment, "m")(node) for node in nodes] == [True, False, True, False, False]
    assert [competing(deployment, "other")(node) for node in nodes] == [False, True, False, False, False]
    assert not any(competing(deployment, "unknown")(node) for node in nodes)
    assert not any(competing(UNMEASURED, "m")(node) for node in nodes)


def gain(body: Map, deployment: Deployment, observed: Observed | None = None) -> float:
    one_by_one = body.concurrency > 0
    estimator = Estimator(deployment, observed or Observed())
    return beside_ms(body.body, "m", deployment, estimator, one_by_one=one_by_one)


def test_what_a_model_writes_one_by_one_shares_the_fixed_cost_of_its_steps() -> None:
    assert gain(WRITES, ON_CORES) == 0
    assert gain(mapped(ASK, 1, i=Value(0)), ON_CORES) == pytest.approx(STEP_MS + 8 * STEP_MS, rel=1e-3)


def test_what_another_model_writes_is_won_but_for_the_steps_that_all_items_share() -> None:
    far = ModelSpec("far", 99, costs=COSTS, processor=GPU)
    deployment = replace(ON_CORES, models={**ON_CORES.models, "far": far})
    ask = replace(ASK, model="far")
    assert gain(mapped(ask, i=Value(0)), deployment) == pytest.approx(64 * 0.08 + 8 * 0.1, rel=1e-3)


@pytest.mark.parametrize(("slowest", "won"), [(300.0, 0.0), (900.0, 600.0)])
def test_calls_side_by_side_win_how_far_their_times_spread(slowest: float, won: float) -> None:
    calls = mapped(Tool("t"), query=Value(0))
    observed = Observed()
    for number in range(20):
        observed.add(duration_key(calls.body.nodes[1]), slowest if number % 4 == 0 else 300.0)
    assert gain(calls, ON_CORES, observed) == pytest.approx(won, rel=0.2)
