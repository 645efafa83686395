"""Real sentence-transformers models, tiny and with random weights."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from weft.runtime.retrieval.embedder import load_embedder
from weft.runtime.retrieval.errors import ModelError
from weft.runtime.retrieval.rerank import CrossEncoderReranker

pytest.importorskip("sentence_transformers")

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij", *(f"##{c}" for c in "abcdefghij")]
TEXTS = ["abc def", "", "j", "漢字 🙂", "abc " * 200]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random BERT for masked language modelling, with its tokenizer."""
    return _save_bert(tmp_path_factory.mktemp("bert"), labels=None)


def _save_bert(folder: Path, labels: int | None) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import torch

        transformers: Any = importlib.import_module("transformers")

    torch.set_num_threads(1)
    torch.manual_seed(0)
    size: dict[str, Any] = {
        "vocab_size": len(VOCABULARY),
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 64,
    }
    kind = "BertModel" if labels is None else "BertForSequenceClassification"
    config = transformers.BertConfig(**size, num_labels=labels or 2)
    getattr(transformers, kind)(config).save_pretrained(folder)
    vocabulary = {token: number for number, token in enumerate(VOCABULARY)}
    transformers.BertTokenizerFast(vocab=vocabulary, model_max_length=64).save_pretrained(folder)
    return folder


def test_a_model_embeds_into_unit_vectors_without_a_word(
    bert: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from sentence_transformers import SentenceTransformer

    SentenceTransformer(str(bert), device="cpu").save(str(tmp_path / "tiny-bert"))
    capfd.readouterr()
    embedder = load_embedder(str(tmp_path / "tiny-bert"))
    vectors = embedder.embed(TEXTS)
    assert (embedder.name, embedder.dimension) == ("tiny-bert", 16)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(len(TEXTS)), abs=1e-5)
    assert vectors[0] == pytest.approx(embedder.embed(TEXTS[:1])[0], abs=1e-5)
    assert embedder.embed([]).shape == (0, 16)
    assert capfd.readouterr() == ("", "")


def test_a_cross_encoder_scores_pairs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = _save_bert(tmp_path / "judge", labels=1)
    capfd.readouterr()
    reranker = CrossEncoderReranker(folder)
    scores = reranker.score([("abc", text) for text in TEXTS])
    assert reranker.name == "judge"
    assert scores.shape == (len(TEXTS),)
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()
    assert scores[1] == pytest.approx(reranker.score([("abc", TEXTS[1])])[0], abs=1e-5)
    assert reranker.score([]).shape == (0,)
    assert capfd.readouterr() == ("", "")


def test_a_classifier_is_no_reranker(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="gives 3 scores a pair"):
        CrossEncoderReranker(_save_bert(tmp_path / "classes", labels=3))
