"""How servers say what OpenAI's `/v1/completions` does not: constraints, token ids, scopes of a cache. Pure.

Each server passes over fields that it does not know, so nothing is sent to one that does not know it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from weft.graph.sampling import Choices, Constraint, JsonSchema, Regex, Sampling

from ...faults import TaskError

__all__ = ["DIALECTS", "Dialect", "dialect_of"]

Body = dict[str, Any]


@dataclass(frozen=True)
class Dialect:
    """What one kind of server understands."""

    name: str
    owner: str
    """What such a server writes as `owned_by` into its list of models."""
    constrained: Callable[[Constraint], Body | None]
    """The fields that hold a text to its form; None: it cannot be held to that one."""
    always: Mapping[str, Any] = field(default_factory=dict)
    """Fields of every generation, by which its own defaults for a model do not count."""
    all_tokens: int | None = None
    """The `top_k` that takes nothing away; None: it knows no `top_k`."""
    ignores_eos: bool = True
    ids: bool = False
    """Whether it returns the ids of what it writes, if asked by `return_token_ids`."""
    named: bool = False
    """Whether it names tokens by their ids, if asked by `return_tokens_as_token_ids`."""
    echoes: bool = True
    """Whether it may weigh the tokens of a prompt: `echo` with `logprobs`."""
    salt: str = ""
    """The field that keeps what it has read for one namespace from others; empty: it has none."""
    keeps_stops: str = ""
    """A field by which the stop string stays in the text, for servers that show a part of it in a stream."""

    def generation(
        self, sampling: Sampling, constraint: Constraint | None, logprobs: int | None, namespace: str
    ) -> Body:
        """The fields of a generation, besides model, prompt and length.

        Raises TaskError for what such a server does not do.
        """
        body: Body = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            **self.always,
            **self.scope(namespace),
        }
        if not sampling.greedy:
            body["seed"] = sampling.seed % _SEEDS
        if sampling.stop:
            body["stop"] = list(sampling.stop)
            body |= {self.keeps_stops: True} if self.keeps_stops else {}
        if sampling.ignore_eos:
            self._expect(self.ignores_eos, "ignore_eos")
            body["ignore_eos"] = True
        if self.all_tokens is not None:
            body["top_k"] = sampling.top_k or self.all_tokens
        else:
            self._expect(not sampling.top_k, "top_k")
        if constraint is not None:
            fields = self.constrained(constraint)
            self._expect(fields is not None, _NAMES[type(constraint)])
            body |= fields or {}
        if self.ids:
            body["return_token_ids"] = True
        if logprobs is not None:
            self._expect(self.ids, "logprobs of the tokens that it writes")
            body |= {"logprobs": logprobs, **self.names(logprobs)}
        return body

    def weighing(self, top: int, namespace: str) -> Body:
        """The fields of a request for the log-probabilities of a prompt. Raises TaskError."""
        self._expect(self.echoes, "log-probabilities of a prompt, which select and rerank go by")
        # One token is written, for not every server writes none; and some take 0 logprobs for none.
        once = {"max_tokens": 1, "temperature": 0.0, "echo": True, "logprobs": max(top, 1)}
        return {**once, **self.scope(namespace), **self.names(top)}

    def names(self, top: int) -> Body:
        """The field by which the likeliest tokens are named by their ids. Raises TaskError."""
        self._expect(self.named or not top, "the likeliest tokens by their ids")
        return {"return_tokens_as_token_ids": True} if top else {}

    def scope(self, namespace: str) -> Body:
        """The field that keeps namespaces apart."""
        return {self.salt: namespace} if self.salt and namespace else {}

    def _expect(self, offered: bool, what: str) -> None:
        if not offered:
            raise TaskError(
                "invalid",
                f"a server of the dialect {self.name!r} does not offer {what}: leave it out, or serve the "
                "model by one that does (docs/upstream.md says which do)",
            )


_SEEDS: Final = 2**31
_NAMES: Final = {
    JsonSchema: "a text by a JSON schema",
    Regex: "a text by a regular expression",
    Choices: "a text out of several",
}
_PLAIN: Final = {"min_p": 0.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
_UNPENALIZED: Final = {**_PLAIN, "repetition_penalty": 1.0}


def _structured(constraint: Constraint) -> Body:
    match constraint:
        case JsonSchema(schema):
            return {"structured_outputs": {"json": json.loads(schema)}}
        case Regex(pattern):
            return {"structured_outputs": {"regex": pattern}}
        case Choices(options):
            return {"structured_outputs": {"choice": list(options)}}


def _sglang(constraint: Constraint) -> Body:
    match constraint:
        case JsonSchema(schema):
            return {"json_schema": schema}
        case Regex(pattern):
            return {"regex": pattern}
        case Choices(options):
            return {"ebnf": _grammar(options)}


def _llamacpp(constraint: Constraint) -> Body | None:
    match constraint:
        case JsonSchema(schema):
            return {"json_schema": json.loads(schema)}
        case Choices(options):
            return {"grammar": _grammar(options)}
        case Regex():
            return None


def _openai(constraint: Constraint) -> Body | None:
    if not isinstance(constraint, JsonSchema):
        return None
    schema = {"name": "answer", "schema": json.loads(constraint.schema), "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def _grammar(options: Sequence[str]) -> str:
    """A grammar (GBNF) of the options; its strings are written as those of JSON."""
    return "root ::= " + " | ".join(json.dumps(option, ensure_ascii=False) for option in options)


DIALECTS: Final = {
    dialect.name: dialect
    for dialect in (
        Dialect("vllm", "vllm", _structured, _UNPENALIZED, -1, ids=True, named=True, salt="cache_salt"),
        Dialect(
            "sglang",
            "sglang",
            _sglang,
            _UNPENALIZED,
            -1,
            ids=True,
            salt="cache_salt",
            keeps_stops="no_stop_trim",
        ),
        Dialect("llamacpp", "llamacpp", _llamacpp, {**_PLAIN, "repeat_penalty": 1.0}, 0, echoes=False),
        Dialect("weft", "weft", _structured, {}, -1, ids=True, named=True, salt="cache_salt"),
        Dialect("openai", "", _openai, {}, ignores_eos=False),
    )
}


def dialect_of(owner: object) -> Dialect:
    """The dialect of the server that calls itself the `owner` of its models."""
    return next((known for known in DIALECTS.values() if known.owner == owner), DIALECTS["openai"])
