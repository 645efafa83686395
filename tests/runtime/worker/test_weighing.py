"""Log-probabilities of single tokens on the reference model, against those computed by transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from weft.graph.ir import Node, Value
from weft.graph.ops.primitive import Decode, Prefill, Weigh
from weft.graph.prompt import Fixed
from weft.graph.sampling import JsonSchema, Sampling
from weft.graph.values import Json, TextValue
from weft.runtime.config import ModelSettings
from weft.runtime.worker.engines.llm import LlmEngine

from .conftest import MODEL_FOLDER, Link, StartWorker

PROMPT = "<|bos|><|user|>Passage: Hipujas was founded in 1987 in Fiba.\nQuestion: When?<|end|><|assistant|>"
READ = Node(1, Prefill("reference", (Fixed(PROMPT, trusted=True),)))


@pytest.fixture
async def llm(start_worker: StartWorker, model_settings: ModelSettings) -> Link:
    return await start_worker(LlmEngine(model_settings, profile_s=0))


@pytest.fixture(scope="module")
def prompt_ids() -> list[int]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL_FOLDER)
    return list(tokenizer(PROMPT, add_special_tokens=False)["input_ids"])


def expected(ids: list[int]) -> torch.Tensor:
    """The log-probabilities [tokens, vocab] of transformers after each token."""
    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL_FOLDER, dtype=torch.float32)
    with torch.inference_mode():
        logprobs: torch.Tensor = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        return logprobs


def data(datum: object) -> Any:
    assert isinstance(datum, Json)
    return datum.value


def check(tokens: list[dict[str, Any]], ids: list[int], logprobs: torch.Tensor, top: int) -> None:
    """Tokens are those of `ids`, weighed by the rows of `logprobs` that come before each."""
    assert [token["id"] for token in tokens] == ids
    for token, row in zip(tokens, logprobs, strict=True):
        assert token["logprob"] == pytest.approx(float(row[token["id"]]), abs=1e-3)
        values, likeliest = row.topk(top)
        assert [rival["id"] for rival in token["top"]] == likeliest.tolist()
        assert [rival["logprob"] for rival in token["top"]] == pytest.approx(values.tolist(), abs=1e-3)
        assert bytes(token["bytes"]).decode("utf-8", "replace") == token["text"]


@pytest.mark.parametrize("start", [0, 1, 5])
async def test_tokens_of_a_prompt(llm: Link, prompt_ids: list[int], start: int) -> None:
    await llm.run(READ, Node(2, Weigh("reference", start=start, top=3), {"kv": Value(1)}))
    count, found = map(data, await llm.results(2))
    assert count == len(prompt_ids)
    if start == 0:
        assert "".join(token["text"] for token in found) == PROMPT
        first = found.pop(0)
        assert (first["id"], first["logprob"], first["top"]) == (prompt_ids[0], None, [])
    start = max(start, 1)
    check(found, prompt_ids[start:], expected(prompt_ids)[start - 1 : -1], 3)


async def test_tokens_given_as_ids(llm: Link, prompt_ids: list[int]) -> None:
    ids = prompt_ids[3:9]
    await llm.run(Node(1, Weigh("reference", tuple(ids), 0)))
    await llm.run(Node(2, Weigh("reference", (ids[0],), 0)))
    count, found = map(data, await llm.results(1))
    assert (count, found[0]["logprob"]) == (6, None)
    check(found[1:], ids[1:], expected(ids)[:-1], 0)
    count, found = map(data, await llm.results(2))
    assert [(token["id"], token["logprob"]) for token in found] == [(ids[0], None)]


async def test_a_probe_without_start_reads_the_prompt_for_later(llm: Link, prompt_ids: list[int]) -> None:
    await llm.run(READ, Node(2, Weigh("reference"), {"kv": Value(1)}))
    first = await llm.done(2)
    assert [data(datum) for datum in await llm.results(2)] == [len(prompt_ids), []]
    assert (first.timing.prompt_tokens, first.timing.computed_tokens) == (len(prompt_ids),) * 2
    await llm.run(READ, Node(2, Weigh("reference"), {"kv": Value(1)}), run="s")
    assert (await llm.done(2, "s")).timing.cached_tokens == len(prompt_ids)


async def test_a_start_beyond_the_prompt_is_refused(llm: Link, prompt_ids: list[int]) -> None:
    await llm.run(READ, Node(2, Weigh("reference", start=len(prompt_ids) + 1), {"kv": Value(1)}))
    fault = await llm.fault(2)
    assert fault.code == "invalid"
    assert f"the prompt has only {len(prompt_ids)} tokens" in fault.message


async def test_too_many_of_the_likeliest_are_refused(llm: Link) -> None:
    await llm.run(READ, Node(2, Decode("reference", logprobs=999), {"kv": Value(1)}))
    assert "logprobs must lie between 0 and 128, not 999" in (await llm.fault(2)).message


@pytest.mark.parametrize("constraint", [None, JsonSchema('{"type":"array","items":{"type":"integer"}}')])
async def test_tokens_of_a_decode_are_weighed_as_the_model_gave_them(
    llm: Link, prompt_ids: list[int], constraint: JsonSchema | None
) -> None:
    sampling = Sampling(max_tokens=12, temperature=1.5, seed=3, top_k=50)
    await llm.run(READ, Node(2, Decode("reference", sampling, constraint, logprobs=2), {"kv": Value(1)}))
    _, text, found = await llm.results(2)
    assert isinstance(text, TextValue)
    tokens = data(found)
    assert "".join(token["text"] for token in tokens) == text.text[: text.covered]
    ids = [token["id"] for token in tokens]
    assert tuple(ids) == text.ids
    check(tokens, ids, expected(prompt_ids + ids)[len(prompt_ids) - 1 : -1], 2)


async def test_logprobs_change_nothing_else(llm: Link) -> None:
    sampling = Sampling(max_tokens=20, temperature=1.0, seed=7)
    plain = Node(2, Decode("reference", sampling), {"kv": Value(1)})
    weighed = Node(3, Decode("reference", sampling, logprobs=5), {"kv": Value(1)})
    await llm.run(READ, plain, weighed)
    assert (await llm.results(2))[1] == (await llm.results(3))[1]


async def test_how_a_decode_ended_and_what_it_had_read(llm: Link, prompt_ids: list[int]) -> None:
    await llm.run(READ, Node(2, Decode("reference", Sampling(max_tokens=1)), {"kv": Value(1)}))
    await llm.run(READ, Node(2, Decode("reference"), {"kv": Value(1)}), run="s")
    cut, whole = await llm.done(2), await llm.done(2, "s")
    assert (cut.timing.finish, whole.timing.finish) == ("length", "stop")
    assert cut.timing.prompt_tokens == whole.timing.prompt_tokens == len(prompt_ids)


async def test_flush_forgets_what_was_read(llm: Link, prompt_ids: list[int]) -> None:
    weigh = Node(2, Weigh("reference"), {"kv": Value(1)})
    await llm.run(READ, weigh)
    await llm.done(2)
    await llm.send(flush={})
    await llm.run(READ, weigh, run="s")
    assert (await llm.done(2, "s")).timing.computed_tokens == len(prompt_ids)
