from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.graph.ops.user import Chunking
from weft.runtime.retrieval.chunking import chunk
from weft.runtime.retrieval.documents import Chunk, Document

texts = st.text(alphabet=st.sampled_from("ab é中🙂\u0301\u200d.!?。\n\t\f"), max_size=120)


def cut(text: str, chunking: Chunking) -> list[Chunk]:
    return chunk(Document("d.md", text, "d.md", {"lang": "en"}), chunking)


def solid(text: str) -> str:
    return "".join(text.split())


@given(texts, st.integers(1, 30))
def test_paragraphs_lose_nothing_and_keep_order_and_limit(text: str, limit: int) -> None:
    chunks = cut(text, Chunking("paragraph", limit))
    assert "".join(solid(each.text) for each in chunks) == solid(text)
    assert all(0 < len(each.text) <= limit and each.text == each.text.strip() for each in chunks)
    assert [each.id for each in chunks] == [f"d.md#{i}" for i in range(1, len(chunks) + 1)]


@given(texts, st.integers(1, 30))
def test_windows_without_overlap_lose_nothing(text: str, limit: int) -> None:
    chunks = cut(text, Chunking("fixed", limit))
    assert "".join(solid(each.text) for each in chunks) == solid(text)
    assert all(0 < len(each.text) <= limit for each in chunks)


letters = st.characters(min_codepoint=0x61, max_codepoint=0x4FFF, categories=["Ll", "Lo"])
words = st.lists(st.tuples(letters, st.sampled_from(["", "", " ", "\n\n"])), unique_by=lambda pair: pair[0])


@given(words, st.integers(2, 12), st.integers(0, 11))
def test_overlapping_windows_cover_the_text_in_order(
    pairs: list[tuple[str, str]], limit: int, overlap: int
) -> None:
    text = "".join(letter + space for letter, space in pairs)  # no letter twice: places are unambiguous
    whole, covered, begun = solid(text), 0, -1
    for each in cut(text, Chunking("fixed", limit, min(overlap, limit - 1))):
        start = whole.index(solid(each.text))
        assert begun < start <= covered
        assert len(each.text) <= limit
        covered, begun = start + len(solid(each.text)), start
    assert covered == len(whole)


def test_headings_become_metadata_of_what_follows() -> None:
    text = "Before.\n\n# Companies #\n\nAll.\n## Hipujas\nFounded\nin 1987.\n\n"
    text += "# Cities\n\nFiba.\n\n#hashtag\n\n## End"
    chunks = cut(text, Chunking())
    assert [(each.text, each.metadata.get("heading")) for each in chunks] == [
        ("Before.", None),
        ("All.", "Companies"),
        ("Founded\nin 1987.", "Companies > Hipujas"),
        ("Fiba.", "Cities"),
        ("#hashtag", "Cities"),
    ]
    assert all(each.metadata["lang"] == "en" and each.source == "d.md" for each in chunks)


def test_passages_may_begin_with_their_titles() -> None:
    text = "Before.\n\n# Companies\n\n## Hipujas\n\nOne two. Three four."
    chunks = cut(text, Chunking(max_chars=11, titles=True))
    titled = "Companies > Hipujas\n"
    assert [each.text for each in chunks] == ["Before.", f"{titled}One two.", f"{titled}Three four."]


def test_pages_become_metadata_and_headings_go_on_over_them() -> None:
    chunks = cut("# A\n\none\ftwo\n\n# B\f\fthree", Chunking())
    assert [(each.text, each.metadata["heading"], each.metadata["page"]) for each in chunks] == [
        ("one", "A", 1),
        ("two", "A", 2),
        ("three", "B", 4),
    ]


def test_code_blocks_stay_whole() -> None:
    block = "```sh\n# not a heading\n\nls\n```"
    assert [each.text for each in cut(f"Run:\n\n{block}\n\nDone.", Chunking())] == ["Run:", block, "Done."]


def test_long_paragraphs_are_cut_at_sentences_then_at_spaces() -> None:
    text = "One two. Three four! Five six seven eight nine."
    assert [each.text for each in cut(text, Chunking(max_chars=21))] == [
        "One two. Three four!",
        "Five six seven eight",
        "nine.",
    ]
    assert [each.text for each in cut("今天很好。明天也好。", Chunking(max_chars=6))] == [
        "今天很好。",
        "明天也好。",
    ]


def test_windows_begin_at_words() -> None:
    chunks = cut("alpha beta gamma delta", Chunking("fixed", 11, 6))
    assert [each.text for each in chunks] == ["alpha beta", "beta gamma", "gamma delta"]


def test_combined_characters_are_not_torn() -> None:
    family = "👩\u200d👩\u200d👧"
    assert [each.text for each in cut(family * 2, Chunking("fixed", 7))] == [family, family]


@pytest.mark.parametrize("text", ["", " \n\t\n", "# Only\n\n## Headings\n"])
def test_documents_without_text_have_no_chunks(text: str) -> None:
    assert cut(text, Chunking()) == []
