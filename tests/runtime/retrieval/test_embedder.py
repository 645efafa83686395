from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.runtime.retrieval import hashing
from weft.runtime.retrieval.embedder import HashEmbedder, SentenceTransformerEmbedder, load_embedder
from weft.runtime.retrieval.errors import ModelError
from weft.runtime.retrieval.rerank import CrossEncoderReranker
from weft.runtime.retrieval.terms import terms


def cosine(left: str, right: str) -> float:
    a, b = HashEmbedder().embed([left, right])
    return float(a @ b)


@given(st.lists(st.text(), max_size=8))
def test_hashed_vectors_are_unit_or_zero_and_independent_of_the_batch(texts: list[str]) -> None:
    embedder = HashEmbedder()
    vectors = embedder.embed(texts)
    assert vectors.shape == (len(texts), embedder.dimension)
    assert vectors.dtype == np.float32
    for text, vector in zip(texts, vectors, strict=True):
        assert np.linalg.norm(vector) == pytest.approx(1.0 if terms(text) else 0.0, abs=1e-5)
        assert np.array_equal(vector, embedder.embed([text])[0])


def test_hashed_vectors_are_the_same_in_another_process() -> None:
    code = (
        "from weft.runtime.retrieval.hashing import HashEmbedder; import sys; "
        "sys.stdout.write(HashEmbedder().embed(['Größe, 東京 and 🙂']).tobytes().hex())"
    )
    other = subprocess.run(
        [sys.executable, "-P", "-X", "utf8", "-c", code], check=True, capture_output=True, text=True
    )
    assert other.stdout == HashEmbedder().embed(["Größe, 東京 and 🙂"]).tobytes().hex()


def test_long_words_are_embedded_alike_each_time_and_not_remembered() -> None:
    word = "0123456789abcdef" * 4
    before = hashing._remembered.cache_info().currsize
    first, second, other = HashEmbedder().embed([word, word, f"{word}0"])
    assert np.array_equal(first, second)
    assert 0.5 < first @ other < 0.999
    assert hashing._remembered.cache_info().currsize == before


def test_spelling_brings_texts_together() -> None:
    related = cosine("founder of the company", "companies and founders")
    assert related > 2 * abs(cosine("founder of the company", "a piano concert"))
    assert cosine("東京の会社", "会社") > cosine("東京の会社", "病院")
    assert cosine("The CAFÉ", "the cafe") == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Bufur's don’t Sahus' O'Brien", ["bufur", "dont", "sahus", "obrien"]),
        ("Straße Ångström ﬁne", ["strasse", "angstrom", "fine"]),
        ("東京 city", ["東", "京", "東京", "city"]),
        ("한국어 が", ["한국어", "が"]),
        ("hi🙂! ... 3.5", ["hi", "🙂", "3", "5"]),
        ("\ud800 \x00", []),
    ],
)
def test_terms_fold_what_search_should_not_distinguish(text: str, expected: list[str]) -> None:
    assert terms(text) == expected


def test_the_built_in_embedder_is_the_default() -> None:
    assert load_embedder(None).name == load_embedder("weft-hash-v1").name == "weft-hash-v1"


def test_a_missing_or_corrupt_model_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model folder '.*nothing' does not exist"):
        load_embedder(str(tmp_path / "nothing"))
    (tmp_path / "modules.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match="holds no usable SentenceTransformer"):
        load_embedder(str(tmp_path))
    with pytest.raises(ModelError, match="holds no usable CrossEncoder"):
        CrossEncoderReranker(tmp_path)


def test_the_missing_package_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ModelError, match=r"pip install 'weft\[models\]'"):
        SentenceTransformerEmbedder(tmp_path)


def test_importing_the_parts_imports_no_heavy_library() -> None:
    code = (
        "import sys; from weft.runtime.retrieval import embedder, folders, index, rerank; "
        "print(sorted({'lancedb', 'pyarrow', 'torch', 'sentence_transformers'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-P", "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"
