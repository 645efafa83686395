"""Passages that a language model rates, driven over gRPC."""

from __future__ import annotations

from math import log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.graph.ir import Node, Value
from weft.graph.ops.primitive import Prefill, Rate, Score
from weft.graph.prompt import Fixed, Slot
from weft.graph.values import Datum, Json, TextValue, plain
from weft.runtime.config import ModelSettings
from weft.runtime.llm.context import Context
from weft.runtime.llm.tokenizer import Tokenizer
from weft.runtime.worker.engines.contexts import read
from weft.runtime.worker.engines.llm import LlmEngine
from weft.runtime.worker.engines.rating import aligned, expected, prompts_of
from weft.runtime.worker.engines.scoring import align

from .conftest import MODEL_FOLDER, Link, StartWorker

SYSTEM = (
    "Rate how relevant the passage is to the question, from 0 (unrelated) to 3 (contains the answer). "
    "Reply with one number."
)
PIECES = (
    Fixed(f"<|bos|><|system|>{SYSTEM}<|end|><|user|>Passage: ", trusted=True),
    Slot("passage"),
    Fixed("\nQuestion: "),
    Slot("query"),
    Fixed("<|end|><|assistant|>", trusted=True),
)
LEVELS = ("0", "1", "2", "3")
VALUES = (0.0, 1.0, 2.0, 3.0)
QUESTION = "Who founded Hipujas?"
TEXTS = ("It works in the wool industry.", "Its canteen is open.", "Hipujas was founded by Kroham Bekis.")
RATE = Node(
    9,
    Rate("reference", PIECES, LEVELS, VALUES),
    {"query": Value(0), "passages": Value(1), "k": Value(2)},
)


def operands(texts: tuple[str, ...] = TEXTS, k: int = 2) -> dict[str, Datum]:
    passages = [{"id": f"p{place}", "text": text} for place, text in enumerate(texts)]
    return {"%0": TextValue(QUESTION), "%1": Json(passages), "%2": Json(k)}


@pytest.fixture
async def llm(start_worker: StartWorker, model_settings: ModelSettings) -> Link:
    return await start_worker(LlmEngine(model_settings, profile_s=0))


@pytest.fixture(scope="module")
def reference() -> Tokenizer:
    return Tokenizer.from_folder(MODEL_FOLDER)


async def rated(llm: Link, text: str) -> float:
    """The rating of one passage by primitives of their own."""
    read = Node(1, Prefill("reference", PIECES), {"passage": Value(3), "query": Value(0)})
    score = Node(2, Score("reference", LEVELS), {"kv": Value(1)})
    run = f"alone {text}"
    await llm.run(read, score, run=run, values={"%0": TextValue(QUESTION), "%3": TextValue(text)})
    _, scores = await llm.results(2, run)
    return expected(VALUES, plain(scores))


async def test_ratings_are_those_of_each_passage_alone(llm: Link) -> None:
    await llm.run(RATE, values=operands(k=3))
    (best,) = await llm.results(9)
    found = {passage["id"]: passage["score"] for passage in plain(best)}
    for place, text in enumerate(TEXTS):
        assert found[f"p{place}"] == pytest.approx(await rated(llm, text), abs=1e-3)
    assert list(found) == sorted(found, key=lambda name: -found[name])
    assert next(iter(found)) == "p2"


async def test_the_best_are_kept_and_one_request_computes_them(llm: Link) -> None:
    await llm.run(RATE, values=operands())
    (best,) = await llm.results(9)
    assert len(plain(best)) == 2
    timing = (await llm.done(9)).timing
    assert timing.batch == 3
    assert timing.computed_tokens + timing.cached_tokens > 3 * 20


@given(
    st.lists(st.text(max_size=30), max_size=4), st.sampled_from(["<|end|><|assistant|>", "\n", " It is", ""])
)
def test_prompts_and_choices_have_the_tokens_that_they_have_alone(
    reference: Tokenizer, texts: list[str], end: str
) -> None:
    op = Rate("reference", (*PIECES[:-1], Fixed(end, trusted=True)), LEVELS, VALUES)
    empty = Context.empty(reference)
    alone = [read(empty, op.pieces, {"query": TextValue(QUESTION), "passage": TextValue(t)}) for t in texts]
    wholes = [[prompt.append_text(level).ids() for level in LEVELS] for prompt in alone]
    expected_tokens = [align(prompt.ids(), whole) for prompt, whole in zip(alone, wholes, strict=True)]
    assert aligned(prompts_of(empty, op, TextValue(QUESTION), texts), LEVELS) == expected_tokens


async def test_no_passages_have_no_best(llm: Link) -> None:
    await llm.run(RATE, values=operands(()))
    assert await llm.results(9) == (Json([]),)


@pytest.mark.parametrize(
    ("values", "code", "message"),
    [
        (operands(k=0), "invalid", "k must be an integer from 1, not 0"),
        (operands() | {"%1": Json([{"id": "p"}])}, "invalid", "passage.text is missing"),
        (operands((*TEXTS, "word " * 5000)), "too_large", "4096"),
    ],
)
async def test_what_cannot_be_rated_is_a_fault_that_leaves_nothing_behind(
    llm: Link, values: dict[str, Datum], code: str, message: str
) -> None:
    await llm.run(RATE, values=values)
    fault = await llm.fault(9)
    assert fault.code == code
    assert message in fault.message
    await llm.status(running=0, waiting=0, kv_running=0)


async def test_cancelling_frees_all_requests(llm: Link) -> None:
    await llm.run(RATE, values=operands(tuple(f"{TEXTS[2]} {n}" * 20 for n in range(800))))
    await llm.status(running=1)
    await llm.send(cancel={"run": "r"})
    await llm.status(running=0, waiting=0, kv_running=0)


@pytest.mark.parametrize(
    ("values", "scores", "mean"),
    [((0.0, 3.0), (log(1), log(2)), 2.0), ((5.0,), (-1e9,), 5.0), ((1.0, 3.0), (-800.0, -800.0), 2.0)],
)
def test_the_mean_of_values(values: tuple[float, ...], scores: tuple[float, ...], mean: float) -> None:
    assert expected(values, scores) == pytest.approx(mean)
