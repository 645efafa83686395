"""Contexts: the ids of any segmentation are those of the whole text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.runtime.llm.context import Context
from weft.runtime.llm.pieces import TextPiece
from weft.runtime.llm.tokenizer import Start, Tokenizer

WORDS = ["the quick", " brown", " fox jumps", "over", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n "]
OTHERS = [
    "日本語",
    "。",
    "é",
    "e\u0301",
    "\u0301",
    "😀",
    "👩‍👩‍👧",
    "1",
    "12",
    "2024",
    ".",
    ", ",
    "'s",
    "don't",
    '{"',
    "<",
    "|",
]
CONTROLS = ["<s>", "</s>", "<|end|>", "<|user|>", "<|bos|>", "<|assistant|>"]
FRAGMENTS = st.sampled_from(WORDS + OTHERS) | st.text(max_size=4)
TEXTS = st.lists(FRAGMENTS, max_size=12).map("".join)
MARKED = st.lists(FRAGMENTS | st.sampled_from(CONTROLS), max_size=12).map("".join)


def cut(text: str, data: st.DataObject) -> list[str]:
    """Cut `text` at random places."""
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    return [text[low:high] for low, high in zip([0, *places], [*places, len(text)], strict=True)]


def grow(context: Context, parts: list[str], *, trusted: bool, look: bool) -> Context:
    """Append `parts`; with `look`, ask for the ids after each."""
    for part in parts:
        context = context.append_text(part, trusted=trusted)
        if look:
            context.ids()
    return context


@settings(max_examples=26, deadline=None)
@given(text=MARKED, look=st.booleans(), data=st.data())
def test_trusted_segments_equal_the_whole(
    tokenizer: Tokenizer, text: str, look: bool, data: st.DataObject
) -> None:
    whole = tuple(tokenizer.encode(text, bos=False))
    empty = Context.empty(tokenizer, bos=False)
    assert grow(empty, cut(text, data), trusted=True, look=look).ids() == whole


@settings(max_examples=26, deadline=None)
@given(text=TEXTS, look=st.booleans(), data=st.data())
def test_untrusted_segments_equal_the_whole(
    tokenizer: Tokenizer, text: str, look: bool, data: st.DataObject
) -> None:
    whole = tuple(tokenizer.encode(text, bos=True))
    empty = Context.empty(tokenizer)
    assert grow(empty, cut(text, data), trusted=False, look=look).ids() == whole


@settings(max_examples=26, deadline=None)
@given(parts=st.lists(st.tuples(MARKED, st.booleans()), max_size=5), look=st.booleans(), data=st.data())
def test_mixed_segments_equal_the_pieces_at_once(
    tokenizer: Tokenizer, parts: list[tuple[str, bool]], look: bool, data: st.DataObject
) -> None:
    context = Context.empty(tokenizer, bos=False)
    for text, trusted in parts:
        context = grow(context, cut(text, data), trusted=trusted, look=look)
    pieces = [TextPiece(text, trusted) for text, trusted in parts]
    assert context.ids() == tuple(tokenizer.encode_pieces(pieces, Start.PROMPT))


@settings(max_examples=20, deadline=None)
@given(before=TEXTS, after=TEXTS, look=st.booleans(), data=st.data())
def test_sampled_ids_are_a_border(
    tokenizer: Tokenizer, before: str, after: str, look: bool, data: st.DataObject
) -> None:
    sampled = tokenizer.encode_continuation(" brown fox")
    context = Context.empty(tokenizer).append_text(before).append_ids(sampled)
    context = grow(context, cut(after, data), trusted=False, look=look)
    expected = (*tokenizer.encode(before, bos=True), *sampled, *tokenizer.encode_continuation(after))
    assert context.ids() == expected


def test_a_context_is_a_value(tokenizer: Tokenizer) -> None:
    trunk = Context.empty(tokenizer).append_text("the qui")
    left, right = trunk.append_text("ck brown"), trunk.append_text("et fox")
    before = trunk.ids()
    assert left.ids() == tuple(tokenizer.encode("the quick brown", bos=True))
    assert right.ids() == tuple(tokenizer.encode("the quiet fox", bos=True))
    assert trunk.ids() == before
    assert len(trunk) == len(before)


@pytest.mark.parametrize("name", ["llama2", "mistral"])
def test_bos_is_never_doubled(tokenizers: dict[str, Tokenizer], name: str) -> None:
    tokenizer = tokenizers[name]
    raw = Context.empty(tokenizer).append_text("the fox").ids()
    assert raw[0] == tokenizer.bos_id
    for bos in (True, False):
        marked = (
            Context.empty(tokenizer, bos=bos)
            .append_text("<", trusted=True)
            .append_text("s>the", trusted=True)
        )
        assert marked.ids().count(tokenizer.bos_id) == 1
    assert tokenizer.bos_id not in Context.empty(tokenizer, bos=False).append_text("<s>the fox").ids()
    assert Context.empty(tokenizer).ids() == (tokenizer.bos_id,)


def test_tails_are_held_back_only_as_far_as_needed(tokenizer: Tokenizer) -> None:
    """The bulk of a long text is final after each append, so that growing it is not quadratic."""
    pieces = [TextPiece("the quick brown fox jumps over the lazy dog. \n" * 20 + " we know who live")]
    count, start = tokenizer.settled(pieces)
    assert count == len(pieces[0].text) - len(" live")
    assert start is Start.CONTINUATION


def test_nothing_is_settled_where_words_may_join(tokenizers: dict[str, Tokenizer]) -> None:
    assert tokenizers["llama2"].settled([TextPiece("日本語 2024 \n\n .")]) == (0, Start.PROMPT)


def test_a_trusted_control_token_settles_what_is_before_it(tokenizer: Tokenizer) -> None:
    pieces = [TextPiece("日本"), TextPiece("<|user|>", trusted=True), TextPiece("<|user|> 本")]
    assert tokenizer.settled(pieces) == (10, Start.CONTROL)


@settings(max_examples=40, deadline=None)
@given(
    heads=st.tuples(MARKED, MARKED), end=st.sampled_from(["<|end|>", "<|user|>\n", " is it", ""]), after=TEXTS
)
def test_contexts_that_end_alike_go_on_alike(
    tokenizer: Tokenizer, heads: tuple[str, str], end: str, after: str
) -> None:
    one, other = (Context.empty(tokenizer).append_text(head + end, trusted=True) for head in heads)
    if one.ends_like(other):
        for context in (one, other):
            context.ids()
        tails = {
            whole.ids()[len(context.settled_ids()) :]
            for context, whole in ((one, one.append_text(after)), (other, other.append_text(after)))
        }
        assert len(tails) == 1


def test_contexts_that_end_in_one_control_token_end_alike(tokenizer: Tokenizer) -> None:
    one, other, open_end = (
        Context.empty(tokenizer).append_text(text, trusted=True)
        for text in ("one<|end|>\n", "quite another<|end|>\n", "one<|end|>\nfox")
    )
    assert one.ends_like(other)
    assert not one.ends_like(open_end)


def test_ids_that_are_given_stay_as_they_are(tokenizer: Tokenizer) -> None:
    context = Context.of_ids(tokenizer, (7, 9))
    assert context.ids() == context.settled_ids() == (7, 9)
    assert list(context.append_text(" fox").ids()) == [7, 9, *tokenizer.encode_continuation(" fox")]
