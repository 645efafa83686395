"""Streaming text: whole characters, stop strings, and the ids that a text keeps."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.runtime.llm.detokenize import FinalText, TextStream
from weft.runtime.llm.tokenizer import Tokenizer

FRAGMENTS = st.sampled_from(
    ["the", " quick", "日本語", "世", "é", "😀", "👩‍👩‍👧", "\n", "ab", "bcd", " ", "a", "b", "\ufffd"]
)
TEXTS = st.lists(FRAGMENTS, max_size=15).map("".join)
STOPS = st.lists(
    st.sampled_from(["ab", "bcd", "本", "\n\n", "k日", "quick the", " "]) | st.text(min_size=1, max_size=2),
    max_size=3,
    unique=True,
).map(tuple)


def run(
    tokenizer: Tokenizer, ids: list[int], stop: tuple[str, ...] = ()
) -> tuple[list[str], TextStream, FinalText]:
    stream = TextStream(tokenizer, stop)
    deltas = [stream.push(token) for token in ids]
    return deltas, stream, stream.finish()


def first_stop(text: str, stop: tuple[str, ...]) -> str:
    """Cut `text` where the first stop string to complete begins, character by character."""
    for end in range(len(text) + 1):
        begins = [end - len(s) for s in stop if text[:end].endswith(s)]
        if begins:
            return text[: min(begins)]
    return text


def longest_prefix(tokenizer: Tokenizer, ids: list[int], text: str) -> int:
    counts = range(len(ids), -1, -1)
    return next(n for n in counts if text.startswith(tokenizer.decode_continuation(ids[:n])))


@settings(max_examples=33, deadline=None)
@given(text=TEXTS, stop=STOPS)
def test_deltas_make_up_the_final_text(tokenizer: Tokenizer, text: str, stop: tuple[str, ...]) -> None:
    ids = tokenizer.encode_continuation(text)
    text = tokenizer.decode_continuation(ids)
    deltas, stream, final = run(tokenizer, ids, stop)
    assert "".join(deltas) + final.delta == final.text == first_stop(text, stop)
    assert stream.stopped == (final.text != text)
    assert tokenizer.decode_continuation(final.ids) + final.tail == final.text
    assert list(final.ids) == ids[: len(final.ids)]


@settings(max_examples=50, deadline=None)
@given(data=st.data(), stop=STOPS)
def test_any_ids_make_a_lawful_text(tokenizer: Tokenizer, data: st.DataObject, stop: tuple[str, ...]) -> None:
    """Random ids: bytes that are no UTF-8, special tokens, ids beyond the vocabulary."""
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 3), max_size=12))
    deltas, stream, final = run(tokenizer, ids, stop)
    assert "".join(deltas) + final.delta == final.text
    assert tokenizer.decode_continuation(final.ids) + final.tail == final.text
    assert not any(s in final.text for s in stop)
    whole = tokenizer.decode_continuation(ids)
    complete = whole if not whole.endswith("\ufffd") else whole[: len(final.text)]
    assert final.text == first_stop(complete, stop)
    if not stream.stopped and "\ufffd" not in whole:
        assert len(final.ids) == longest_prefix(tokenizer, ids, final.text) == len(ids)


@settings(max_examples=20, deadline=None)
@given(text=TEXTS)
def test_as_the_plain_decoder(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode("a" + text, bos=False)
    _, _, final = run(tokenizer, ids)
    assert final.text.removeprefix(" ") == tokenizer.decode(ids).removeprefix(" ")


def test_never_half_a_character(tokenizer: Tokenizer) -> None:
    deltas, _, final = run(tokenizer, tokenizer.encode_continuation("世😀界"))
    assert final.text == "世😀界"
    assert not any("\ufffd" in delta for delta in deltas)


def test_an_incomplete_last_character_is_dropped(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_continuation("the😀")[:-1]
    _, _, final = run(tokenizer, ids)
    assert (final.text, final.tail, final.delta) == ("the", "", "")
    assert tokenizer.decode_continuation(final.ids) == "the"


def spell(tokenizer: Tokenizer, text: str) -> list[int]:
    """One token for each character of ASCII `text`."""
    return [token for char in text for token in tokenizer.encode_continuation(char)]


def test_a_stop_string_over_several_tokens_is_never_shown(tokenizer: Tokenizer) -> None:
    deltas, stream, final = run(tokenizer, spell(tokenizer, "xy-END-z"), ("-END",))
    assert deltas == ["x", "y", "", "", "", "", "", ""]
    assert stream.stopped
    assert (final.text, final.delta, final.tail) == ("xy", "", "")
    assert list(final.ids) == spell(tokenizer, "xy")


def test_held_text_appears_when_the_stop_string_fails(tokenizer: Tokenizer) -> None:
    deltas, stream, final = run(tokenizer, spell(tokenizer, "x-ENx-E"), ("-END",))
    assert deltas == ["x", "", "", "", "-ENx", "", ""]
    assert not stream.stopped
    assert (final.text, final.delta) == ("x-ENx-E", "-E")


@pytest.mark.parametrize(("text", "expected"), [("xabcd", "x"), ("xbcd", "x"), ("xbcab", "xbc"), ("ab", "")])
def test_overlapping_stop_strings(tokenizer: Tokenizer, text: str, expected: str) -> None:
    for ids in (spell(tokenizer, text), tokenizer.encode_continuation(text)):
        assert run(tokenizer, ids, ("ab", "bcd"))[2].text == expected


def test_a_stop_string_within_a_token_leaves_a_tail(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["gpt2"]
    ids = tokenizer.encode_continuation("the quick brown")
    assert len(ids) == 3
    _, stream, final = run(tokenizer, ids, ("row",))
    assert stream.stopped
    assert final == FinalText("the quick b", tuple(ids[:2]), " b", "")


def test_tokens_after_the_stop_are_ignored(tokenizer: Tokenizer) -> None:
    _, _, final = run(tokenizer, spell(tokenizer, "a.b.c"), (".",))
    assert final.text == "a"


def test_special_tokens_add_no_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a<|end|>", bos=False)
    _, _, final = run(tokenizer, ids)
    assert final.text.strip() == "a"
    assert list(final.ids) == ids


def test_a_continuation_keeps_its_leading_space(tokenizers: dict[str, Tokenizer]) -> None:
    for name in ("llama2", "mistral", "reference"):
        ids = tokenizers[name].encode_continuation(" the")
        assert "".join(run(tokenizers[name], ids)[0]) == " the"
