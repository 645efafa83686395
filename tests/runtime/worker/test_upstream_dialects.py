"""What each kind of server is sent."""

from __future__ import annotations

from typing import Any

import pytest

from weft.graph.sampling import Choices, Constraint, JsonSchema, Regex, Sampling
from weft.runtime.worker.engines.upstream.dialects import DIALECTS, Dialect, dialect_of
from weft.runtime.worker.faults import TaskError

INTEGER = JsonSchema('{"type": "integer"}')
DIGITS = Regex("[0-9]+")
WORDS = Choices(("a b", 'c"d', "e\n"))
GRAMMAR = 'root ::= "a b" | "c\\"d" | "e\\n"'
FORMS: dict[str, tuple[Any, Any, Any]] = {
    "vllm": (
        {"structured_outputs": {"json": {"type": "integer"}}},
        {"structured_outputs": {"regex": "[0-9]+"}},
        {"structured_outputs": {"choice": ["a b", 'c"d', "e\n"]}},
    ),
    "sglang": ({"json_schema": '{"type": "integer"}'}, {"regex": "[0-9]+"}, {"ebnf": GRAMMAR}),
    "llamacpp": ({"json_schema": {"type": "integer"}}, None, {"grammar": GRAMMAR}),
    "openai": (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": {"type": "integer"}, "strict": True},
            }
        },
        None,
        None,
    ),
}
FORMS["weft"] = FORMS["vllm"]


def asked(dialect: Dialect, constraint: Constraint | None = None, **sampling: Any) -> dict[str, Any]:
    return dialect.generation(Sampling(**sampling), constraint, None, "")


CONSTRAINTS: tuple[Constraint, ...] = (INTEGER, DIGITS, WORDS)


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=lambda dialect: dialect.name)
def test_forms(dialect: Dialect) -> None:
    plain = asked(dialect)
    for constraint, fields in zip(CONSTRAINTS, FORMS[dialect.name], strict=True):
        if fields is not None:
            assert asked(dialect, constraint) == plain | fields
        else:
            with pytest.raises(TaskError, match=f"dialect '{dialect.name}' does not offer a text"):
                asked(dialect, constraint)


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=lambda dialect: dialect.name)
def test_nothing_is_left_to_what_a_server_holds_for_usual(dialect: Dialect) -> None:
    body = asked(dialect)
    assert (body["temperature"], body["top_p"]) == (0.0, 1.0)
    assert body.get("top_k", 0) <= 0
    if dialect.name in ("vllm", "sglang"):  # which take others from a model's generation_config.json
        assert (body["min_p"], body["repetition_penalty"], body["presence_penalty"]) == (0.0, 1.0, 0.0)


def test_what_is_asked_for_is_sent_or_refused() -> None:
    more: dict[str, Any] = {"temperature": 0.5, "top_k": 7, "seed": -1, "stop": ("x",), "ignore_eos": True}
    body = asked(DIALECTS["sglang"], **more)
    assert (body["top_k"], body["stop"], body["ignore_eos"], body["no_stop_trim"]) == (7, ["x"], True, True)
    assert body["seed"] == 2**31 - 1
    assert "no_stop_trim" not in asked(DIALECTS["sglang"])
    with pytest.raises(TaskError, match="dialect 'openai' does not offer top_k"):
        asked(DIALECTS["openai"], top_k=7)
    with pytest.raises(TaskError, match="dialect 'openai' does not offer ignore_eos"):
        asked(DIALECTS["openai"], ignore_eos=True)


def test_probabilities_are_asked_for_where_tokens_are_known() -> None:
    vllm, sglang, llamacpp = (DIALECTS[name] for name in ("vllm", "sglang", "llamacpp"))
    assert vllm.generation(Sampling(), None, 2, "")["return_tokens_as_token_ids"] is True
    assert sglang.generation(Sampling(), None, 0, "")["logprobs"] == 0
    with pytest.raises(TaskError, match="does not offer the likeliest tokens by their ids"):
        sglang.generation(Sampling(), None, 2, "")
    with pytest.raises(TaskError, match="does not offer logprobs of the tokens"):
        llamacpp.generation(Sampling(), None, 0, "")
    assert sglang.weighing(0, "") == {"max_tokens": 1, "temperature": 0.0, "echo": True, "logprobs": 1}
    with pytest.raises(TaskError, match="which select and rerank go by"):
        llamacpp.weighing(0, "")


def test_servers_are_known_by_what_they_say_of_their_models() -> None:
    for name in ("vllm", "sglang", "llamacpp", "weft"):
        assert dialect_of(name) is DIALECTS[name]
    for unknown in ("", "somebody", None):
        assert dialect_of(unknown) is DIALECTS["openai"]
