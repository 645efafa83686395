"""What runs at the same time once programs are optimized: checks of Teola's passes on a virtual clock.

Where each check of the acceptance list is a test; those without a file are here, the others beside this file
or, from `worker/`, `orchestrator/` and `report/` on, among the tests of the runtime and the frontend:

1. Pruned edges: `test_expanding_does_not_wait_for_indexing`.
2. Stages: `test_stages_are_stored_while_later_ones_are_embedded_and_nothing_else_is_stored`; in test_stage.py
   `test_666_passages_at_an_efficient_batch_of_128_are_six_stages`,
   `test_up_to_the_efficient_batch_nothing_is_cut` (0, 1 and 128 passages).
3. The efficient batch: worker/test_efficient_batch.py `test_the_batch_doubles_until_throughput_stops_rising`;
   test_stage.py `test_a_slower_or_smaller_engine_cuts_at_other_sizes`.
4. Split prompts: `test_a_head_is_read_during_the_search_and_only_the_rest_after_it`; counted on an engine:
   worker/test_llm_worker.py `test_what_stands_before_a_late_value_is_computed_while_it_is_awaited`; equal
   tokens on the reference model: test_reference_model.py.
5. Both orders, one variable: test_split_prefill.py
   `test_what_is_known_is_read_while_the_rest_is_searched_for`,
   `test_a_prompt_that_begins_with_the_late_value_reads_its_head_only`,
   `test_a_prompt_of_one_variable_reads_its_head`.
6. Three refine steps: `test_a_refine_chain_reads_everything_that_is_known_before_the_answer_so_far`; as a
   graph: test_split_prefill.py `test_every_step_of_a_refine_chain_reads_what_comes_before_its_passage`.
7. The cost gate: test_split_prefill.py `test_a_cut_that_saves_less_than_it_costs_is_refused_by_name`;
   test_gates.py; named to users: report/test_explanation.py
   `test_the_text_has_the_rules_and_the_predictions`. What a cut costs is measured by
   ``weft bench optimizer --compile``.
8. Pipelined decodes: `test_each_query_is_embedded_while_the_next_one_is_written`; bare strings:
   test_pipeline_decode.py `test_each_query_is_searched_for_as_soon_as_it_is_written`.
9. Other numbers of items: `test_as_many_items_as_the_model_writes_are_searched_for`; test_pipeline_decode.py
   `test_the_number_of_items_is_discovered`.
22. Two slots that a model fills: test_lower.py `test_what_a_model_fills_in_twice_is_one_context`; counted on
   an engine: worker/test_llm_worker.py `test_the_second_slot_of_a_template_reads_only_what_stands_between`.
24. Overheads: orchestrator/test_invoke.py `test_a_program_that_comes_again_goes_through_no_pass`; the order
   of the ablation: `test_what_overlaps_and_what_pipelines_each_save_a_part_of_what_both_save`; the times are
   printed by ``weft bench optimizer``: tests/benchmarks/test_optimizer.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest

from weft.graph.deployment import Deployment
from weft.graph.ir import Graph, Node, Value
from weft.graph.observed import Observed, duration_key
from weft.graph.ops.base import Op
from weft.graph.ops.common import Const, Embed, Input, Project, Search
from weft.graph.ops.primitive import Chunk, Decode, Prefill, Upsert
from weft.graph.ops.user import Generate, Ingest, Rerank
from weft.graph.passes import OPTIONAL
from weft.graph.prompt import Fixed, Message, Piece, Slot
from weft.graph.sampling import JsonSchema
from weft.graph.types import INTEGER, STRINGS
from weft.graph.values import Datum, render

from . import conftest
from .clock import Rehearsal
from .conftest import DEPLOYMENT

SEARCH_MS = 500.0
TOKEN_MS = 50.0  # of a decode
CHAR_MS = 0.1  # of a prefill
HEAD = "Answer from the passages and cite them. " * 100
"""About 1,000 tokens."""


def ms(node: Node, args: Mapping[str, Datum]) -> float:
    """What a node takes."""
    match node.op:
        case Prefill(pieces=pieces):
            return CHAR_MS * sum(len(_read(piece, args)) for piece in pieces)
        case Decode(constraint=constraint):
            return TOKEN_MS * (24 if constraint else 2)
        case Search():
            return SEARCH_MS
        case Embed():
            return 20.0
        case Upsert():
            return 50.0
        case _:
            return 10.0


def _read(piece: Piece, args: Mapping[str, Datum]) -> str:
    return piece.text if isinstance(piece, Fixed) else render(args[piece.name])


def observed(*searches: Node) -> Observed:
    """That searches take long is known from earlier runs."""
    seen = Observed()
    for search in searches:
        for _ in range(8):
            seen.add(duration_key(search), SEARCH_MS)
    return seen


def raw(*parts: str | Slot) -> tuple[Message, ...]:
    return (Message("raw", parts),)


def advanced_rag() -> Graph:
    """Index documents, expand the question, search for each query, rerank, answer, refine twice."""
    expand = Generate(raw("List queries: ", Slot("q")), STRINGS, constraint=JsonSchema(STRINGS.schema))
    nodes = [
        Node(0, Input("documents", STRINGS)),
        Node(1, Input("question")),
        Node(2, Ingest("docs"), {"documents": Value(0)}),
        Node(3, expand, {"q": Value(1)}, "expand"),
        Node(4, Const("16", INTEGER)),
        Node(5, Search("docs"), {"query": Value(3), "k": Value(4), "after": Value(2, 1)}),
        Node(6, Const("2", INTEGER)),
        Node(7, Rerank(), {"query": Value(1), "passages": Value(5), "k": Value(6)}),
        Node(8, Project(0), {"value": Value(7)}),
        Node(9, Project(1), {"value": Value(7)}),
        Node(10, Generate(raw(HEAD, Slot("q"), Slot("c"))), {"q": Value(1), "c": Value(8)}),
        Node(
            11,
            Generate(raw(HEAD, Slot("q"), Slot("c"), " So far: ", Slot("a"))),
            {"q": Value(1), "c": Value(9), "a": Value(10)},
        ),
    ]
    return Graph(tuple(nodes), (Value(11),))


def before(graph: Mapping[int, Node], node: int) -> Iterator[Op]:
    """All that must be done before a node."""
    for value in graph[node].args.values():
        yield graph[value.node].op
        yield from before(graph, value.node)


def test_expanding_does_not_wait_for_indexing() -> None:
    run = Rehearsal(advanced_rag(), {"documents": ["a", "b"], "question": "q?"}, ms)
    run.run()
    (expand,) = (i for i in run.of(Prefill) if i.node.name == "expand")
    assert not any(isinstance(op, Chunk | Embed | Upsert) for op in before(run.live.nodes, expand.node.id))
    assert expand.start == 0.0
    indexing = run.of(Upsert)[0]
    (writing,) = (i for i in run.of(Decode) if i.node.name == "expand")
    assert indexing.overlaps(writing)


@pytest.mark.parametrize("one_by_one", [(), ("llm",)])
def test_what_overlaps_and_what_pipelines_each_save_a_part_of_what_both_save(
    one_by_one: tuple[str, ...],
) -> None:
    """The order of Teola's ablation (section 7.3), with engines on devices of their own.

    The distances are other ones: no program has needless edges here, whose removal is most of what Teola's
    parallel part saves.
    """
    off = {
        "all": (),
        "parallel only": ("stage", "pipeline_decode"),
        "pipeline only": ("prune", "dedupe", "split_prefill"),
        "none": OPTIONAL,
    }
    inputs = {"documents": ["a", "b"], "question": "q?"}
    runs = {arm: Rehearsal(advanced_rag(), inputs, ms, without, one_by_one) for arm, without in off.items()}
    outputs = [run.run() for run in runs.values()]
    assert all(output == outputs[0] for output in outputs)
    took = {arm: run.now for arm, run in runs.items()}
    assert took["all"] < took["parallel only"] < took["pipeline only"] < took["none"]


def test_stages_are_stored_while_later_ones_are_embedded_and_nothing_else_is_stored() -> None:
    nodes = (Node(0, Input("d", STRINGS)), Node(1, Ingest("docs"), {"documents": Value(0)}))
    graph, inputs = Graph(nodes, (Value(1),)), {"d": [f"document {n}" for n in range(222)]}
    staged = Rehearsal(graph, inputs, ms, one_by_one=("embed", "index"), deployment=batches_of(128))
    whole = Rehearsal(graph, inputs, ms, OPTIONAL)
    assert staged.run() == whole.run()
    assert staged.engines.stored == whole.engines.stored
    assert len(staged.engines.stored) == 666
    embeds, upserts = staged.of(Embed), staged.of(Upsert)
    assert (len(embeds), len(upserts)) == (6, 6)
    assert upserts[0].start < embeds[-1].end


def batches_of(size: int) -> Deployment:
    return replace(DEPLOYMENT, batches={"embed": size})


def searched_prompt() -> tuple[Graph, Observed]:
    """A prompt with a long head, the question, and what a search finds."""
    search = Node(2, Search("empty", "lexical"), {"query": Value(0), "k": Value(1)})
    prompt = Node(3, Generate(raw(HEAD, Slot("q"), "\n", Slot("c"))), {"q": Value(0), "c": Value(2)})
    nodes = (Node(0, Input("q")), Node(1, Const("2", INTEGER)), search, prompt)
    return Graph(nodes, (Value(3),)), observed(search)


def test_a_head_is_read_during_the_search_and_only_the_rest_after_it() -> None:
    graph, seen = searched_prompt()
    run, whole = (Rehearsal(graph, {"q": "who?"}, ms, off, observed=seen) for off in ((), OPTIONAL))
    assert run.run() == whole.run()
    (search,) = run.of(Search)
    head, rest = run.of(Prefill)
    assert head.start == 0.0
    assert head.end < search.end
    assert rest.start == search.end
    (unsplit,) = whole.of(Prefill)
    assert rest.end - rest.start < 0.6 * (unsplit.end - unsplit.start)


def test_a_refine_chain_reads_everything_that_is_known_before_the_answer_so_far() -> None:
    search = Node(2, Search("empty", "lexical"), {"query": Value(0), "k": Value(1)})
    nodes = [Node(0, Input("q")), Node(1, Const("3", INTEGER)), search]
    answer: Value | None = None
    for step in range(3):
        parts: tuple[str | Slot, ...] = (HEAD, Slot("q"), " ", Slot("c"))
        args = {"q": Value(0), "c": Value(2)}
        if answer is not None:
            parts, args = (*parts, " so far: ", Slot("a")), args | {"a": answer}
        nodes.append(Node(3 + step, Generate(raw(*parts, f" step {step}")), args))
        answer = Value(3 + step)
    assert answer is not None
    graph = Graph(tuple(nodes), (answer,))
    run, whole = (
        Rehearsal(graph, {"q": "who?"}, ms, off, observed=observed(search)) for off in ((), OPTIONAL)
    )
    assert run.run() == whole.run()
    (found,) = run.of(Search)
    prefills, decodes = run.of(Prefill), run.of(Decode)
    heads = [i for i in prefills if set(i.node.args) == {"q"}]
    assert [i.start for i in heads] == [0.0]  # of all three steps
    assert heads[0].end < found.end
    passages = [i for i in prefills if "c" in i.node.args]
    assert all(i.end < decodes[0].end for i in passages)  # before the first answer is known
    assert run.now < 0.85 * whole.now


def searching() -> Graph:
    """A search for each of the queries that a model writes."""
    expand = Generate(raw("List: ", Slot("q")), STRINGS, constraint=JsonSchema(STRINGS.schema))
    nodes = (
        Node(0, Input("q")),
        Node(1, expand, {"q": Value(0)}),
        Node(2, Const("4", INTEGER)),
        Node(3, Search("empty"), {"query": Value(1), "k": Value(2)}),
    )
    return Graph(nodes, (Value(3),))


def test_each_query_is_embedded_while_the_next_one_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    five = json.dumps([f"query {number}" for number in range(5)])
    monkeypatch.setattr(conftest, "write", lambda text, schema: five)
    run, whole = (Rehearsal(searching(), {"q": "five, please"}, ms, off) for off in ((), OPTIONAL))
    assert run.run() == whole.run()
    (decode,) = run.of(Decode)
    embeds = run.of(Embed)
    assert len(embeds) == 5
    assert sum(i.overlaps(decode) for i in embeds) >= 2
    assert all(i.start >= decode.end for i in whole.of(Embed))


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_as_many_items_as_the_model_writes_are_searched_for(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = json.dumps([f"query {number}" for number in range(count)])
    monkeypatch.setattr(conftest, "write", lambda text, schema: written)
    run, whole = (Rehearsal(searching(), {"q": "three, please"}, ms, off) for off in ((), OPTIONAL))
    assert run.run() == whole.run()
    assert len(run.of(Embed)) == len(run.of(Search)) == count
