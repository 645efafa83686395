"""Completions and embeddings over the official client."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from weft.graph.ops.primitive import Decode, Prefill
from weft.graph.prompt import Fixed
from weft.graph.sampling import Choices, Constraint, JsonSchema, Regex

from .conftest import Door, StartDoor, language_model


async def test_a_text_goes_on_past_the_template(door: Door) -> None:
    answer = await door.openai.completions.create(model="m", prompt="Once <|x|>")
    (choice,) = answer.choices
    assert (choice.text, choice.index, choice.finish_reason, choice.logprobs) == (
        "<Once <|x|>>",
        0,
        "stop",
        None,
    )
    assert answer.id.startswith("cmpl-r-")
    assert answer.object == "text_completion"
    assert door.workers[0].nodes()[0].op == Prefill("m", (Fixed("Once <|x|>", trusted=True),))


async def test_several_prompts_and_samples(door: Door) -> None:
    answer = await door.openai.completions.create(model="m", prompt=["a", "b"], n=2)
    assert [(c.index, c.text) for c in answer.choices] == [(0, "<a>"), (1, "<a>"), (2, "<b>"), (3, "<b>")]
    assert answer.usage
    assert answer.usage.completion_tokens == 12


@pytest.mark.parametrize(("seed", "draws"), [(openai.omit, 2), (7, 1)])
async def test_equal_prompts_are_drawn_apart_unless_a_seed_says_how(
    door: Door, seed: int | openai.Omit, draws: int
) -> None:
    await door.openai.completions.create(model="m", prompt=["a", "a"], seed=seed)
    decodes = [node.op for node in door.workers[0].nodes() if isinstance(node.op, Decode)]
    assert len({op.sampling.seed for op in decodes}) == draws


async def test_a_forced_length_reaches_the_worker(door: Door) -> None:
    for extra in ({"ignore_eos": True}, {"min_tokens": 0}):
        await door.openai.completions.create(model="m", prompt="a", max_tokens=5, extra_body=extra)
    decodes = [node.op for node in door.workers[0].nodes() if isinstance(node.op, Decode)]
    assert [(op.sampling.max_tokens, op.sampling.ignore_eos) for op in decodes] == [(5, True), (5, False)]


@pytest.mark.parametrize(
    ("fields", "constraint"),
    [
        ({"structured_outputs": {"json": {"type": "integer"}}}, JsonSchema('{"type": "integer"}')),
        ({"structured_outputs": {"json": '{"type": "integer"}'}}, JsonSchema('{"type": "integer"}')),
        ({"structured_outputs": {"regex": "[ab]"}}, Regex("[ab]")),
        ({"structured_outputs": {"choice": ["a", "b"]}}, Choices(("a", "b"))),
        ({"response_format": {"type": "json_object"}}, JsonSchema('{"type": "object"}')),
        ({"response_format": {"type": "text"}}, None),
    ],
)
async def test_a_form_reaches_the_worker(
    door: Door, fields: dict[str, Any], constraint: Constraint | None
) -> None:
    await door.openai.completions.create(model="m", prompt=[5, 7], extra_body=fields)
    (decode,) = [node for node in door.workers[0].nodes() if isinstance(node.op, Decode)]
    assert isinstance(decode.op, Decode)
    assert (decode.op.ids, decode.op.constraint, decode.args) == ((5, 7), constraint, {})


async def test_a_stream_of_several(door: Door) -> None:
    stream = await door.openai.completions.create(
        model="m", prompt=["a", "b"], stream=True, stream_options={"include_usage": True}
    )
    texts, reasons = {0: "", 1: ""}, []
    async for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            reasons += [choice.finish_reason] if choice.finish_reason else []
    assert (texts, reasons) == ({0: "<a>", 1: "<b>"}, ["stop", "stop"])


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({"prompt": [1, -2]}, "prompt", "must be a text, a list of texts, token ids, or a list of lists"),
        ({"prompt": [[1], []]}, "prompt", "must be a text, a list of texts, token ids, or a list of lists"),
        ({"prompt": []}, "prompt", "must be a text, a list of texts, token ids, or a list of lists"),
        ({}, "prompt", "'prompt' is missing"),
        ({"prompt": "a", "echo": True, "stream": True}, "echo", "does not go with 'stream'"),
        (
            {"prompt": "a", "structured_outputs": {"regex": "a", "choice": ["a"]}},
            "structured_outputs",
            "pass one of json, regex, choice",
        ),
        (
            {"prompt": "a", "structured_outputs": {"choice": ["a", "a"]}},
            "structured_outputs.choice",
            "choices must differ",
        ),
        (
            {"prompt": "a", "structured_outputs": {"json": {"type": 3}}},
            "structured_outputs.json",
            "'structured_outputs.json': ",
        ),
        ({"prompt": "a", "structured_outputs": {"grammar": "x"}}, "structured_outputs.grammar", "unknown"),
        ({"prompt": "a", "best_of": 3}, "best_of", "pass `n`"),
        ({"prompt": "a", "suffix": "z"}, "suffix", "continue a text"),
        ({"prompt": "a", "ignore_eos": "yes"}, "ignore_eos", "should be a valid boolean"),
        ({"prompt": "a", "min_tokens": 3}, "min_tokens", "pass `ignore_eos` and `max_tokens`"),
        ({"prompt": "a", "logprobs": 99}, "logprobs", "less than or equal to 20"),
    ],
)
async def test_what_is_refused(door: Door, body: dict[str, Any], param: str, said: str) -> None:
    status, error = await door.refused("/v1/completions", {"model": "m", **body})
    assert (status, error["param"]) == (400, param)
    assert said in error["message"]


async def test_embeddings_in_both_encodings(door: Door) -> None:
    as_floats = await door.openai.embeddings.create(model="hash", input=["a"], encoding_format="float")
    by_default = await door.openai.embeddings.create(model="hash", input="a")  # the client asks for base64
    assert as_floats.data[0].embedding == by_default.data[0].embedding == [1.0, 1.0]
    assert (by_default.object, by_default.model, by_default.data[0].index) == ("list", "hash", 0)


async def test_what_embeddings_refuse(door: Door, start_door: StartDoor) -> None:
    with pytest.raises(openai.NotFoundError, match="there is no model 'm'; there are: 'hash'"):
        await door.openai.embeddings.create(model="m", input="a")
    with pytest.raises(openai.BadRequestError, match="'dimensions' is not supported"):
        await door.openai.embeddings.create(model="hash", input="a", dimensions=3)
    with pytest.raises(openai.BadRequestError, match="token ids are not taken"):
        await door.openai.embeddings.create(model="hash", input=[1, 2])
    other = await start_door()
    await other.worker("w", language_model("m"))
    status, error = await other.refused("/v1/embeddings", {"model": "hash", "input": "a"})
    assert (status, error["message"]) == (503, "no worker that embeds is there; try again later")
