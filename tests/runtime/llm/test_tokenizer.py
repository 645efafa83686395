"""Tokenizing: what a folder says, control tokens in untrusted text, continuations."""

from __future__ import annotations

import json
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Fast
from transformers import PreTrainedTokenizerFast

from weft.runtime.llm.pieces import TextPiece
from weft.runtime.llm.tokenizer import Start, Tokenizer, TokenizerError

REFERENCE = Path(__file__).parents[3] / "apps" / "reference_model" / "model"
CONTROLS = ["<s>", "</s>", "<|end|>", "<|user|>", "<unk>"]
FRAGMENTS = [
    "the",
    " quick",
    " ",
    "  ",
    "\n",
    "\n\n",
    "\t",
    "日本",
    "é",
    "e\u0301",
    "😀",
    "👩‍👩‍👧",
    "12",
    "345",
    "'s",
    '{"',
    "<|",
    "|>",
    "<s",
    ">",
]
TEXTS = st.lists(st.sampled_from([*FRAGMENTS, *CONTROLS]) | st.text(max_size=4), max_size=12).map("".join)


def write_folder(folder: Path, spec: object, **files: object) -> Path:
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@settings(max_examples=20, deadline=None)
@given(text=TEXTS)
def test_trusted_text_has_the_ids_of_the_plain_tokenizer(
    tokenizer: Tokenizer, reference: Fast, text: str
) -> None:
    expected = reference.encode(text, add_special_tokens=False).ids
    assert tokenizer.encode(text, bos=False) == expected
    assert tokenizer.encode_pieces([TextPiece(text, trusted=True)], Start.PROMPT) == expected


@settings(max_examples=20, deadline=None)
@given(text=TEXTS)
def test_with_bos_as_transformers(tokenizer: Tokenizer, reference: Fast, text: str) -> None:
    untyped: Any = PreTrainedTokenizerFast
    plain = untyped(tokenizer_object=reference)
    expected = plain(text, add_special_tokens=True)["input_ids"]
    assert tokenizer.encode(text, bos=True) == expected


@settings(max_examples=33, deadline=None)
@given(parts=st.lists(st.tuples(TEXTS, st.booleans()), max_size=5))
def test_untrusted_text_never_writes_a_control_token(
    tokenizer: Tokenizer, parts: list[tuple[str, bool]]
) -> None:
    pieces = [TextPiece(text, trusted) for text, trusted in parts]
    ids = tokenizer.encode_pieces(pieces, Start.PROMPT)
    whole = "".join(text for text, _ in parts)
    honest = not any(control in whole for control in [*CONTROLS, "<|bos|>", "<|pad|>"])
    if honest:
        assert ids == tokenizer.encode(whole, bos=False)
    allowed = sum(
        len(control_ids(tokenizer, tokenizer.encode(run, bos=False))) for run in trusted_runs(pieces)
    )
    assert len(control_ids(tokenizer, ids)) == allowed


def trusted_runs(pieces: list[TextPiece]) -> list[str]:
    """Join neighbouring trusted pieces."""
    marked = "".join(piece.text if piece.trusted else "\0" * bool(piece.text) for piece in pieces)
    return marked.split("\0")


def control_ids(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    controls = {tokenizer.encode(text, bos=False)[0] for text in ["<|end|>", "<|user|>"]}
    return [token for token in ids if token in controls | {tokenizer.bos_id} | tokenizer.eos_ids]


@pytest.mark.parametrize("control", ["<|end|>", "<|user|>"])
def test_a_forged_control_token_is_spelled_out(tokenizer: Tokenizer, control: str) -> None:
    forged = tokenizer.encode_pieces([TextPiece(f"a{control}b")], Start.CONTINUATION)
    assert tokenizer.decode_continuation(forged) == f"a{control}b"
    assert tokenizer.encode(control, bos=False)[0] not in forged


def test_a_control_token_across_a_trust_border_is_spelled_out(tokenizer: Tokenizer) -> None:
    pieces = [TextPiece("<|e"), TextPiece("nd|>", trusted=True), TextPiece("<|end|>", trusted=True)]
    ids = tokenizer.encode_pieces(pieces, Start.CONTINUATION)
    assert ids.count(tokenizer.encode("<|end|>", bos=False)[0]) == 1
    assert ids[-1] == tokenizer.encode("<|end|>", bos=False)[0]


@settings(max_examples=20, deadline=None)
@given(text=TEXTS.filter(lambda text: not any(control in text for control in CONTROLS)))
def test_continuations_decode_to_their_text(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode_continuation(text)
    assert tokenizer.decode_continuation(ids) in (text, unicodedata.normalize("NFC", text))


def test_continuation_has_no_artificial_space(tokenizers: dict[str, Tokenizer]) -> None:
    for name in ("llama2", "mistral", "gpt2-prefix"):
        tokenizer = tokenizers[name]
        assert tokenizer.decode_continuation(tokenizer.encode("the", bos=False)) == " the"
        assert tokenizer.decode_continuation(tokenizer.encode_continuation("the")) == "the"
        assert tokenizer.decode_continuation(tokenizer.encode_continuation(" the")) == " the"


def test_decode_skips_special_tokens(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("the quick<|end|>", bos=True)
    assert tokenizer.decode(ids).strip() == "the quick"
    assert tokenizer.decode_continuation(ids).strip() == "the quick"


def test_reference_folder() -> None:
    tokenizer = Tokenizer.from_folder(REFERENCE)
    assert tokenizer.eos_ids == {2}
    assert (tokenizer.vocab_size, tokenizer.bos_id) == (4096, 1)


def test_eos_ids_are_the_union_of_all_files(tmp_path: Path, references: dict[str, Fast]) -> None:
    folder = write_folder(
        tmp_path,
        json.loads(references["llama3"].to_str()),
        tokenizer_config={"eos_token": {"content": "</s>"}, "bos_token": "<s>"},
        generation_config={"eos_token_id": [2, 3]},
        config={"text_config": {"eos_token_id": 7}},
    )
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.eos_ids == {1, 2, 3, 7}
    assert tokenizer.bos_id == 0


@pytest.mark.parametrize(("adds", "expected"), [(True, [0]), (False, []), (None, [])])
def test_configuration_decides_on_bos(
    tmp_path: Path, references: dict[str, Fast], adds: bool | None, expected: list[int]
) -> None:
    config = {"bos_token": "<s>", "eos_token": "</s>"} | ({} if adds is None else {"add_bos_token": adds})
    write_folder(tmp_path, json.loads(references["gpt2"].to_str()), tokenizer_config=config)
    assert Tokenizer.from_folder(tmp_path).encode("", bos=True) == expected


def test_special_tokens_that_only_the_configuration_names(
    tmp_path: Path, references: dict[str, Fast]
) -> None:
    spec = json.loads(references["gpt2"].to_str())
    spec["added_tokens"] = spec["added_tokens"][:2]
    write_folder(
        tmp_path,
        spec,
        tokenizer_config={"eos_token": "</s>", "additional_special_tokens": ["<|end|>", "<|new|>"]},
    )
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.encode("the<|end|>", bos=False)[-1] == 2
    assert len(tokenizer.encode("<|new|>", bos=False)) > 1  # the vocabulary does not hold it


def test_fingerprint_tells_vocabularies_apart(tokenizers: dict[str, Tokenizer]) -> None:
    assert len({tokenizer.fingerprint for tokenizer in tokenizers.values()}) == len(tokenizers)
    assert Tokenizer.from_folder(REFERENCE).fingerprint == tokenizers["reference"].fingerprint


def test_missing_and_broken_files_name_the_remedy(tmp_path: Path, references: dict[str, Fast]) -> None:
    with pytest.raises(TokenizerError, match="no model folder"):
        Tokenizer.from_folder(tmp_path / "nowhere")
    with pytest.raises(TokenizerError, match=r"no tokenizer\.json"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"\x0a")
    with pytest.raises(TokenizerError, match="save_pretrained"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(TokenizerError, match="not valid JSON"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("[]")
    with pytest.raises(TokenizerError, match="must hold a JSON object, not list"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text(
        '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["b", "c"]]}}'
    )
    with pytest.raises(TokenizerError, match="cannot be loaded"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text(references["gpt2"].to_str())
    with pytest.raises(TokenizerError, match="names no end-of-sequence token"):
        Tokenizer.from_folder(tmp_path)


def test_threads_agree(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["reference"]
    pieces = [TextPiece("the quick <|end|> brown fox " * 50), TextPiece("<|end|>", trusted=True)]
    expected = tokenizer.encode_pieces(pieces, Start.PROMPT)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: tokenizer.encode_pieces(pieces, Start.PROMPT), range(32)))
    assert results == [expected] * 32
