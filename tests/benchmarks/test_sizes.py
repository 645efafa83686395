"""Plans in the papers' sizes."""

from __future__ import annotations

from typing import Any

from plans import parrot, sglang, teola
from plans.language import Ask, Branch, Each, Plan, Search
from plans.sizes import LABEL, LINES, enlarged, sized
from plans.workload import Sizes, World
from pydantic import TypeAdapter

PLAN = Plan(
    ("question",),
    (
        Ask("verdict", (("user", "{question}"),), LABEL),
        Ask("queries", (("user", "{question}"),), 32, form=list[str]),
        Search("found", "queries", 4),
        Each("texts", "found", Plan(("item",), (Ask("text", (("user", "{item}"),), 24),), "text")),
        Branch(
            "reply",
            "verdict",
            "yes",
            "question",
            Plan(("texts",), (Ask("last", (("user", "{texts}"),), 10),), "last"),
        ),
    ),
    "reply",
)


def test_texts_and_searches_grow_wherever_they_stand_and_labels_do_not() -> None:
    verdict, queries, found, texts, reply = enlarged(PLAN, Sizes(texts=3, found=2)).steps
    assert (verdict, queries) == PLAN.steps[:2]
    assert isinstance(found, Search)
    assert found.k == 8
    assert isinstance(texts, Each)
    assert isinstance(reply, Branch)
    assert [tokens(texts.body), tokens(reply.otherwise)] == [72, 30]


def tokens(plan: Plan) -> int:
    (step,) = plan.steps
    assert isinstance(step, Ask)
    return step.tokens


def test_nothing_changes_in_the_usual_sizes() -> None:
    assert enlarged(PLAN, Sizes()) == PLAN
    assert sized(teola.WORKLOADS[0], Sizes()).shape == teola.WORKLOADS[0].shape


def test_a_list_that_is_drawn_has_three_items() -> None:
    queries = enlarged(PLAN, Sizes(), forced=True).steps[1]
    assert isinstance(queries, Ask)
    assert queries.form is LINES
    form: Any = queries.form
    schema = TypeAdapter(form).json_schema()
    assert (schema["minItems"], schema["maxItems"]) == (3, 3)


def test_the_shared_prompt_and_the_parts_have_the_papers_lengths() -> None:
    world = World(3)
    by_name = {workload.name: workload for paper in (parrot, sglang) for workload in paper.WORKLOADS}

    def words(name: str, field: str) -> int:
        workload = by_name[name]
        (case,) = sized(workload, workload.papers).cases(world, 1)
        value = case.inputs[field]
        return len((value[0] if isinstance(value, list) else value).split())

    tokens_a_word = 1.6  # of the reference model's tokenizer, about
    assert 4500 < words("shared prompt", "passages") * tokens_a_word < 7500
    assert 800 < words("map-reduce summary", "parts") * tokens_a_word < 1300


def test_long_parts_of_two_documents_differ_even_where_they_begin_alike() -> None:
    workload = next(workload for workload in parrot.WORKLOADS if workload.name == "map-reduce summary")
    cases = sized(workload, workload.papers).cases(World(3), 12)
    parts = [part for case in cases for part in case.inputs["parts"]]
    assert len(set(parts)) == len(parts) > len({part[:80] for part in parts})
