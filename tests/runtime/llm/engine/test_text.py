"""The engine with a tokenizer: stop strings, constraints, and texts that add up."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from weft.graph.sampling import Choices, Constraint, JsonSchema, Regex, Sampling
from weft.runtime.llm.blocking import run_requests
from weft.runtime.llm.engine import LLMEngine
from weft.runtime.llm.errors import CancelledError, RequestError
from weft.runtime.llm.model import load_model
from weft.runtime.llm.options import EngineOptions
from weft.runtime.llm.requests import Delta, Event, Failed, Finished, GenerateRequest
from weft.runtime.llm.tokenizer import Tokenizer

REFERENCE = Path(__file__).parents[4] / "apps" / "reference_model" / "model"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_folder(REFERENCE)


@pytest.fixture(scope="module")
def engine(tokenizer: Tokenizer) -> Iterator[LLMEngine]:
    options = EngineOptions(kv_tokens=4096, verify=True)
    with LLMEngine(load_model(REFERENCE, device="cpu"), tokenizer, options) as engine:
        yield engine


def ids_of(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text, bos=True))


def request(
    ids: tuple[int, ...],
    *,
    constraint: Constraint | None = None,
    max_tokens: int = 24,
    stop: tuple[str, ...] = (),
    seed: int | None = None,
) -> GenerateRequest:
    sampling = Sampling(
        max_tokens=max_tokens, stop=stop, seed=seed or 0, temperature=0.0 if seed is None else 1.5
    )
    return GenerateRequest(ids, sampling=sampling, constraint=constraint)


def run(engine: LLMEngine, *requests: GenerateRequest) -> list[list[Event]]:
    return run_requests(engine, requests, timeout=120)


def finished(events: Sequence[Event]) -> Finished:
    assert isinstance(events[-1], Finished), events[-1]
    return events[-1]


def deltas(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


def test_deltas_make_up_the_text(engine: LLMEngine, tokenizer: Tokenizer) -> None:
    prompts = [ids_of(tokenizer, text) for text in ("Question:", "世界 🙂", "The")]
    for seed, events in enumerate(
        run(engine, *(request(ids, seed=seed) for seed, ids in enumerate(prompts)))
    ):
        last = finished(events)
        assert deltas(events) == last.text, seed
        assert last.tail == ""


def test_a_forced_length_goes_past_the_end_and_begins_with_the_same_text(
    engine: LLMEngine, tokenizer: Tokenizer
) -> None:
    ids = ids_of(
        tokenizer, "<|user|>Passage: Hipujas was founded in 1987.\nQuestion: When?<|end|><|assistant|>"
    )
    free = request(ids, max_tokens=40)
    forced = replace(free, sampling=replace(free.sampling, ignore_eos=True))
    short, long = (finished(events) for events in run(engine, free, forced))
    assert (short.finish_reason, long.finish_reason) == ("stop", "length")
    assert len(short.ids) < len(long.ids) == 40
    assert long.ids[: len(short.ids)] == short.ids
    assert long.ids[len(short.ids)] in tokenizer.eos_ids


def test_a_stop_string_ends_a_text_of_forced_length(engine: LLMEngine, tokenizer: Tokenizer) -> None:
    plain = request(ids_of(tokenizer, "Question: Who"))
    forced = replace(plain, sampling=replace(plain.sampling, ignore_eos=True))
    whole = finished(run(engine, forced)[0]).text
    stopped = replace(forced, sampling=replace(forced.sampling, stop=(whole[5:9],)))
    last = finished(run(engine, stopped)[0])
    assert (last.finish_reason, last.text) == ("stop", whole.partition(whole[5:9])[0])


def test_a_forced_length_does_not_go_with_a_constraint(engine: LLMEngine) -> None:
    sampling = Sampling(max_tokens=4, ignore_eos=True)
    with pytest.raises(RequestError, match="ignore_eos does not go with a constraint"):
        run(engine, GenerateRequest((5,), sampling=sampling, constraint=Regex("a+")))


def test_a_stop_string_ends_the_text_before_it(engine: LLMEngine, tokenizer: Tokenizer) -> None:
    ids = ids_of(tokenizer, "Question: Who")
    whole = finished(run(engine, request(ids, seed=3))[0]).text
    stop = whole[5:9]
    (events,) = run(engine, request(ids, stop=(stop,), seed=3))
    last = finished(events)
    assert last.text == deltas(events) == whole[: whole.index(stop)]
    assert last.finish_reason == "stop"


def test_constraints_hold_side_by_side(engine: LLMEngine, tokenizer: Tokenizer) -> None:
    schema = json.dumps(
        {
            "type": "object",
            "properties": {"name": {"type": "string"}, "ok": {"type": "boolean"}},
            "required": ["name", "ok"],
            "additionalProperties": False,
        }
    )
    ids = ids_of(tokenizer, "Answer:")
    free, *typed = run(
        engine,
        request(ids),
        *(request(ids, constraint=JsonSchema(schema), seed=seed, max_tokens=40) for seed in range(8)),
        request(ids, constraint=Regex("[0-9]{3}")),
        request(ids, constraint=Choices(("red", "green"))),
    )
    for events in typed[:8]:
        value = json.loads(finished(events).text)
        assert isinstance(value["name"], str)
        assert isinstance(value["ok"], bool)
    assert finished(typed[8]).text.isdigit()
    assert len(finished(typed[8]).text) == 3
    assert finished(typed[9]).text in {"red", "green"}
    assert finished(free).ids == finished(run(engine, request(ids))[0]).ids


def test_a_bad_grammar_fails_its_request_only(engine: LLMEngine, tokenizer: Tokenizer) -> None:
    ids = ids_of(tokenizer, "Answer:")
    bad, good = run(engine, request(ids, constraint=Regex("(")), request(ids))
    (failed,) = bad
    assert isinstance(failed, Failed)
    assert type(failed.error).__name__ == "GrammarError"
    assert finished(good).ids


def test_cancel_while_a_grammar_is_compiled(engine: LLMEngine, tokenizer: Tokenizer) -> None:
    events: list[Event] = []
    ids = ids_of(tokenizer, "Answer:")
    handle = engine.submit(request(ids, constraint=Regex("[a-z]{2,40}x")), events.extend)
    engine.cancel(handle)
    run(engine, request(ids, constraint=Regex("[a-z]{2,40}x")))
    assert isinstance(events[-1], Failed)
    assert isinstance(events[-1].error, CancelledError)
    assert engine.stats().waiting_requests == engine.stats().running_requests == 0
