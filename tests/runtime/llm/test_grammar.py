"""Constrained decoding: every text conforms and ends within its budget."""

from __future__ import annotations

import json
import re
from datetime import date, datetime, time
from ipaddress import IPv4Address
from typing import Annotated, Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import (
    BaseModel,
    Field,
    HttpUrl,
    TypeAdapter,
)

from weft.graph.sampling import Choices, Constraint, JsonSchema, Regex
from weft.runtime.llm.closing_grammar import Vocabulary, utf8_ranges
from weft.runtime.llm.grammar import GrammarCompiler, GrammarError, apply_mask
from weft.runtime.llm.tokenizer import Tokenizer

from .writing import PADDING, follow, read_back, texts

FAMILIES = ["reference", "llama2"]


class Leaf(BaseModel):
    kind: Literal["leaf"]
    weight: float


class Branch(BaseModel):
    kind: Literal["branch"]
    left: Tree
    right: Tree


Tree = Annotated[Leaf | Branch, Field(discriminator="kind")]


class Item(BaseModel):
    name: str
    colour: Literal["red", "dark green", "blue"]
    tags: list[list[str]]
    counts: dict[str, int]
    size: int | None = None
    children: list[Item] = []


class Order(BaseModel):
    id: int
    items: list[Item]
    total: float
    note: str | int | None
    tree: Tree
    code: Annotated[str, Field(min_length=2, max_length=5)]
    ref: Annotated[str, Field(pattern=r"^[A-Z]{2}-.\d+$")]
    paid: bool = False


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def schema(model: Any) -> JsonSchema:
    return JsonSchema(json.dumps(TypeAdapter(model).json_schema()))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("spare", [0, 3, 40])
def test_nested_models_always_parse(
    tokenizers: dict[str, Tokenizer], compilers: dict[str, GrammarCompiler], name: str, spare: int
) -> None:
    constraint = schema(Order)
    shortest = compilers[name].compile(constraint, 4096).min_tokens
    grammar = compilers[name].compile(constraint, shortest + spare)
    assert grammar.guarded
    for text in texts(tokenizers[name], grammar, 10):
        Order.model_validate_json(text)


@pytest.mark.parametrize("limit", [64, 100])
def test_a_hundred_of_a_hundred(
    tokenizers: dict[str, Tokenizer], compilers: dict[str, GrammarCompiler], limit: int
) -> None:
    grammar = compilers["reference"].compile(schema(Item), limit)
    for text in texts(tokenizers["reference"], grammar, 100):
        Item.model_validate_json(text)


@pytest.mark.parametrize(
    "kind", [str, int, float, bool, list[int], dict[str, int], Literal["a", 'say "x"'], int | None]
)
@pytest.mark.parametrize("limit", [2, 3, 9])
def test_plain_types(
    tokenizers: dict[str, Tokenizer], compilers: dict[str, GrammarCompiler], kind: Any, limit: int
) -> None:
    compiler = compilers["reference"]
    needed = compiler.compile(schema(kind), 64).min_tokens
    for text in texts(tokenizers["reference"], compiler.compile(schema(kind), max(limit, needed)), 20):
        TypeAdapter(kind).validate_json(text)


PATTERNS = [
    r"\d{3}-[a-z]+(foo|bar)?",
    r"(a|bb){2,}",
    r"[^\n]{0,300}x",
    r".*",
    r"[一-龥é]{1,3}!",
    r"(yes|no|maybe later)",
    r"((ab)*c?)*d",
    r"[\u0000-\U0010ffff]{3}",
]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_regexes_always_match(
    tokenizers: dict[str, Tokenizer], compilers: dict[str, GrammarCompiler], name: str, pattern: str
) -> None:
    shortest = compilers[name].compile(Regex(pattern), 64).min_tokens
    for spare in (0, 2, 20):
        grammar = compilers[name].compile(Regex(pattern), shortest + spare)
        for text in texts(tokenizers[name], grammar, 5):
            assert re.fullmatch(pattern, text, re.DOTALL), text


@pytest.mark.parametrize("name", FAMILIES)
def test_choices(tokenizers: dict[str, Tokenizer], compilers: dict[str, GrammarCompiler], name: str) -> None:
    options = ("yes", 'a "quoted\\" one', "日本", "the quick brown fox", "the quick", "")
    found = texts(tokenizers[name], compilers[name].compile(Choices(options), 40), 60)
    assert set(found) <= set(options)
    assert len(set(found)) > 2


def test_the_shortest_choice_is_counted_in_tokens(
    tokenizers: dict[str, Tokenizer], compilers: dict[str, GrammarCompiler]
) -> None:
    word = next(
        w
        for w in ("founder", "question", "company")
        if len(tokenizers["reference"].encode(w, bos=False)) == 1
    )
    grammar = compilers["reference"].compile(Choices((word, "zqx")), 1)
    assert texts(tokenizers["reference"], grammar, 3) == [word] * 3


def test_too_small_a_budget_says_what_is_needed(compilers: dict[str, GrammarCompiler]) -> None:
    constraint = schema(Item)
    needed = compilers["reference"].compile(constraint, 4096).min_tokens
    with pytest.raises(
        GrammarError, match=f"max_tokens must be at least {needed} for this type, not {needed - 1}"
    ):
        compilers["reference"].compile(constraint, needed - 1)


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        (Regex("(a"), "parenthesis is not closed"),
        (Regex("(?=a)b"), "Lookahead is not supported"),
        (JsonSchema("{"), "not valid JSON"),
        (JsonSchema('{"type": "number?"}'), "Unsupported type"),
        (JsonSchema('{"type": "array", "items": {"multipleOf": 2}}'), "'multipleOf' cannot be enforced"),
        (
            JsonSchema('{"properties": {"a": {"properties": {"b": {"uniqueItems": true}}}}}'),
            r"'uniqueItems' of 'a\.b' cannot be enforced; take a list",
        ),
        (JsonSchema('{"type": "string", "pattern": "a\\"b"}'), "quotation mark or backslash"),
        (JsonSchema('{"type": "string", "pattern": "^[\\\\t]$"}'), "asks for a control character"),
        (
            JsonSchema('{"type": "string", "pattern": "^[\\\\t\\\\n]$"}'),
            "only characters that JSON must escape",
        ),
        (JsonSchema('{"type": "string", "format": "email"}'), "use a pattern"),
    ],
)
def test_what_cannot_be_enforced_is_refused(
    compilers: dict[str, GrammarCompiler], constraint: Constraint, message: str
) -> None:
    with pytest.raises(GrammarError, match=message):
        compilers["reference"].compile(constraint, 64)


class Card(BaseModel):
    kind: Literal["card"]
    oneOf: bool


class Cash(BaseModel):
    kind: Literal["cash"]
    paid: bool


def test_unions_with_a_discriminator_are_written_without_a_warning(
    tokenizers: dict[str, Tokenizer], compilers: dict[str, GrammarCompiler], capfd: pytest.CaptureFixture[str]
) -> None:
    kind = Annotated[Card | Cash, Field(discriminator="kind")]
    grammar = compilers["reference"].compile(schema(kind), 64)
    read_back(tokenizers["reference"], grammar, kind, 20)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", [date, datetime, time, IPv4Address])
def test_formats_are_of_what_there_is(
    tokenizers: dict[str, Tokenizer], compilers: dict[str, GrammarCompiler], kind: type
) -> None:
    grammar = compilers["reference"].compile(schema(kind), 64)
    read_back(tokenizers["reference"], grammar, kind, 200)


def test_lengths_beside_a_format_of_any_string_are_held_to(
    tokenizers: dict[str, Tokenizer], compilers: dict[str, GrammarCompiler]
) -> None:
    constraint = JsonSchema('{"type": "string", "format": "password", "minLength": 2, "maxLength": 4}')
    for text in texts(tokenizers["reference"], compilers["reference"].compile(constraint, 64), 20):
        assert 2 <= len(json.loads(text)) <= 4


URL = TypeAdapter(HttpUrl).json_schema()  # with lengths


@pytest.mark.parametrize("constraint", [URL, {"format": "date", "type": "string", "maxLength": 10}])
def test_a_format_with_lengths_is_held_to_without_a_warning(
    tokenizers: dict[str, Tokenizer],
    compilers: dict[str, GrammarCompiler],
    capfd: pytest.CaptureFixture[str],
    constraint: dict[str, Any],
) -> None:
    grammar = compilers["reference"].compile(JsonSchema(json.dumps(constraint)), 64)
    for text in texts(tokenizers["reference"], grammar, 20):
        assert re.search("[:-]", json.loads(text))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("day", [date(1, 1, 1), date(1600, 2, 29), date(2024, 2, 29), date(9999, 12, 31)])
def test_every_day_can_be_written(
    tokenizers: dict[str, Tokenizer], compilers: dict[str, GrammarCompiler], day: date
) -> None:
    matcher = compilers["reference"].compile(schema(date), 64).matcher()
    follow(tokenizers["reference"], matcher, json.dumps(day.isoformat()))
    assert matcher.finished


def test_names_of_properties_are_no_keywords(compilers: dict[str, GrammarCompiler]) -> None:
    properties = {"not": {"type": "integer"}, "pattern": {"const": "multipleOf"}}
    constraint = JsonSchema(json.dumps({"type": "object", "properties": properties, "required": ["not"]}))
    assert compilers["reference"].compile(constraint, 64).guarded


def test_a_sampled_token_is_kept_while_there_is_time(
    tokenizers: dict[str, Tokenizer], compilers: dict[str, GrammarCompiler]
) -> None:
    tokenizer = tokenizers["reference"]
    matcher = compilers["reference"].compile(schema(str), 8).matcher()
    assert tokenizer.decode_continuation(follow(tokenizer, matcher, '"abcdefg')) == '"abcdef"'
    assert matcher.finished


def test_nothing_may_follow_a_closed_text(
    tokenizers: dict[str, Tokenizer], compilers: dict[str, GrammarCompiler]
) -> None:
    matcher = compilers["reference"].compile(schema(bool), 8).matcher()
    follow(tokenizers["reference"], matcher, "tru")
    assert not matcher.finished
    follow(tokenizers["reference"], matcher, "e")
    assert matcher.finished


def test_an_end_token_ends_a_complete_text(
    tokenizers: dict[str, Tokenizer], compilers: dict[str, GrammarCompiler]
) -> None:
    matcher = compilers["reference"].compile(Regex("a+"), 8).matcher()
    follow(tokenizers["reference"], matcher, "aa")
    assert not matcher.finished
    assert matcher.accept(2) == 2
    assert matcher.finished


def test_a_token_sampled_without_the_mask_is_refused(
    tokenizers: dict[str, Tokenizer], compilers: dict[str, GrammarCompiler]
) -> None:
    matcher = compilers["reference"].compile(Regex("a{200000}"), 300_000).matcher()
    with pytest.raises(GrammarError, match="not allowed here"):
        follow(tokenizers["reference"], matcher, "b")


def test_without_a_guard_a_decode_may_be_cut(
    tokenizers: dict[str, Tokenizer], compilers: dict[str, GrammarCompiler]
) -> None:
    grammar = compilers["reference"].compile(Regex("a{200000}"), 4)
    assert not grammar.guarded
    matcher = grammar.matcher()
    follow(tokenizers["reference"], matcher, "aaaa")
    assert not matcher.finished


@pytest.mark.parametrize("pattern", ["(a{1000}b{1000}){1000}", "((a{1000}){1000}){1000}"])
def test_what_is_too_long_to_be_spelled_is_not_guarded(
    compilers: dict[str, GrammarCompiler], pattern: str
) -> None:
    assert not compilers["reference"].compile(Regex(pattern), 4).guarded


def test_a_way_that_is_too_long_to_be_spelled_is_not_taken(
    tokenizers: dict[str, Tokenizer], compilers: dict[str, GrammarCompiler]
) -> None:
    matcher = compilers["reference"].compile(Regex("a|(b{1000}c{1000}){1000}"), 8).matcher()
    taken = follow(tokenizers["reference"], matcher, "b")
    assert tokenizers["reference"].decode_continuation(taken) == "a"


@pytest.mark.parametrize(
    "pattern", ["(([a-z]?){80}){80}", "x(([a-z]?){80}){80}", "((([a-z]?){100}){100}){100}"]
)
def test_what_can_be_read_in_too_many_ways_is_refused(
    compilers: dict[str, GrammarCompiler], pattern: str
) -> None:
    with pytest.raises(GrammarError, match=r"too many ways to be enforced; .* \[a-z\]\{0,100\} instead of"):
        compilers["reference"].compile(Regex(pattern), 64)


def test_what_turns_out_to_be_read_in_too_many_ways_fails(
    tokenizers: dict[str, Tokenizer], compilers: dict[str, GrammarCompiler]
) -> None:
    matcher = compilers["reference"].compile(Regex("n|yes, Mr (([a-z]?){80}){80}"), 64).matcher()
    with pytest.raises(GrammarError, match="too many ways to be enforced"):
        follow(tokenizers["reference"], matcher, "yes, Mr ")


def test_a_long_list_of_choices_is_not_ambiguous(compilers: dict[str, GrammarCompiler]) -> None:
    choices = Choices(tuple(f"number {number}" for number in range(6000)))
    assert compilers["reference"].compile(choices, 64).min_tokens == 1


def test_a_mask_that_takes_too_long_is_refused_and_not_computed_again(
    compilers: dict[str, GrammarCompiler], monkeypatch: pytest.MonkeyPatch
) -> None:
    constraint = Regex("so[a-z] long")
    with monkeypatch.context() as patched:
        patched.setattr("weft.runtime.llm.grammar._MOST_MASK_S", -1.0)
        with pytest.raises(GrammarError, match="too many ways to be enforced"):
            compilers["reference"].compile(constraint, 64)
    with pytest.raises(GrammarError, match="too many ways to be enforced"):
        compilers["reference"].compile(constraint, 64)


def test_the_guard_gives_up_on_explosive_ambiguity(
    tokenizers: dict[str, Tokenizer], compilers: dict[str, GrammarCompiler], monkeypatch: pytest.MonkeyPatch
) -> None:
    grammar = compilers["reference"].compile(Regex("((a?b?){0,9}c?){0,9}d"), 8)
    monkeypatch.setattr("weft.runtime.llm.length_guard._MOST_FRAMES", 100)
    matcher = grammar.matcher()
    text = "ababababab"
    assert tokenizers["reference"].decode_continuation(follow(tokenizers["reference"], matcher, text)) == text


def test_a_misjudged_repetition_falls_back_to_the_sampled_token(
    tokenizers: dict[str, Tokenizer], compilers: dict[str, GrammarCompiler]
) -> None:
    """Beyond 256 optional items the guard takes more to be possible: here a 301st `ab`, then `ac`."""
    text = "ab" * 301 + "zzzz"
    matcher = compilers["reference"].compile(Regex("(ab){0,300}a(c|bzzzz)"), 602 + 2).matcher()
    ids = follow(tokenizers["reference"], matcher, text)
    assert tokenizers["reference"].decode_continuation(ids) == text


def test_mask_covers_exactly_the_allowed_tokens(
    tokenizers: dict[str, Tokenizer], compilers: dict[str, GrammarCompiler]
) -> None:
    tokenizer = tokenizers["reference"]
    width = tokenizer.vocab_size + PADDING
    mask = torch.zeros(2, (width + 31) // 32, dtype=torch.int32)
    compilers["reference"].compile(Choices(("yes", "no")), 8).matcher().fill(mask, 1)
    logits = torch.zeros(2, width)
    apply_mask(logits, mask, [1])
    allowed = {tokenizer.decode_continuation([int(token)]) for token in torch.isfinite(logits[1]).nonzero()}
    assert allowed <= {"y", "ye", "yes", "n", "no"}
    assert {"y", "n"} <= allowed
    assert torch.isfinite(logits[0]).all()


@settings(max_examples=20, deadline=None)
@given(low=st.integers(0, 0x10FFFF), span=st.integers(0, 0x3000), probe=st.integers(-2, 0x3002))
def test_utf8_ranges_hold_exactly_their_code_points(low: int, span: int, probe: int) -> None:
    high = min(low + span, 0x10FFFF)
    point = low + probe
    if not 0 <= point <= 0x10FFFF or 0xD800 <= point <= 0xDFFF:
        return
    text = chr(point).encode()
    matching = [
        sequence
        for sequence in utf8_ranges(low, high)
        if len(sequence) == len(text)
        and all(a <= byte <= b for byte, (a, b) in zip(text, sequence, strict=True))
    ]
    assert len(matching) == (low <= point <= high)


def test_spelling_takes_the_fewest_tokens() -> None:
    vocabulary = Vocabulary([b"", b"a", b"b", b"ab", b"abb", b"bbab"])
    assert vocabulary.spell(b"abbab") == [1, 5] or vocabulary.spell(b"abbab") == [4, 3]
    assert len(vocabulary.spell(b"abba")) == 2
    assert vocabulary.spell(b"") == []
