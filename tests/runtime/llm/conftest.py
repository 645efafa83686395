"""Small tokenizers in the style of the model families, trained here in milliseconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex
from tokenizers import Tokenizer as Fast
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Metaspace, PreTokenizer, Sequence, Split
from tokenizers.trainers import BpeTrainer

from weft.runtime.llm.grammar import GrammarCompiler
from weft.runtime.llm.tokenizer import Tokenizer
from weft.runtime.llm.tokenizer_files import TokenizerFiles

from .writing import PADDING

REFERENCE = Path(__file__).parents[3] / "apps" / "reference_model" / "model"
SPECIALS = ["<s>", "</s>", "<|end|>", "<|user|>"]
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CORPUS = [
    'the quick brown fox jumps over the lazy dog. {"name": "Ann", "items": [1, 2, 30], "ok": true}\n',
    "  we don't know who lives\n\n   日本語 と 世界 naïve café 2024, 1.5 -7 null false <|x|>\n\tif x:\n",
] * 4


def byte_level_spec(pre: PreTokenizer) -> dict[str, Any]:
    """Return the tokenizer.json of a tiny byte-level BPE."""
    fast = Fast(BPE())
    fast.pre_tokenizer = pre
    fast.decoder = ByteLevelDecoder()
    fast.train_from_iterator(
        CORPUS,
        BpeTrainer(
            vocab_size=480,
            special_tokens=SPECIALS,
            initial_alphabet=ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    spec: dict[str, Any] = json.loads(fast.to_str())
    return spec


def llama2_spec(*, legacy: bool) -> dict[str, Any]:
    """Return the tokenizer.json of a tiny BPE with spaces as U+2581 and a fall-back to bytes.

    `legacy` puts an artificial space before every stretch of text, as the Llama 2 files do; else only before
    the first of a prompt.
    """
    fast = Fast(BPE())
    fast.pre_tokenizer = Metaspace(prepend_scheme="never")
    fast.train_from_iterator(CORPUS, BpeTrainer(vocab_size=200, show_progress=False))
    spec: dict[str, Any] = json.loads(fast.to_str())
    learned = [piece for piece in spec["model"]["vocab"] if ord(piece[0]) < 0x3000]
    pieces = ["<unk>", *SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256)), *learned, "▁▁"]
    vocab = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    merges = [pair for pair in spec["model"]["merges"] if {*pair, "".join(pair)} <= vocab.keys()]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    prepend = [{"type": "Prepend", "prepend": "▁"}] if legacy else []
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    first = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    return spec | {
        "added_tokens": [{"id": vocab[text], "content": text} | flags for text in ["<unk>", *SPECIALS]],
        "normalizer": {"type": "Sequence", "normalizers": [*prepend, spaces]} if legacy else None,
        "pre_tokenizer": None if legacy else first,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [vocab["<s>"]], "tokens": ["<s>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": spec["model"]
        | {
            "vocab": vocab,
            "merges": [["▁", "▁"], *merges],
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
        },
    }


def gemma_spec() -> dict[str, Any]:
    """Return the tokenizer.json of a tiny BPE as Gemma has it: spaces as U+2581, none put before a text."""
    llama = llama2_spec(legacy=True)
    spaces = llama["normalizer"]["normalizers"][-1]
    words = {"pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    return llama | {
        "normalizer": spaces,
        "pre_tokenizer": {"type": "Split"} | words,
        "decoder": {"type": "Sequence", "decoders": llama["decoder"]["decoders"][:-1]},
    }


def specs() -> dict[str, dict[str, Any]]:
    """Return one tokenizer.json for each family."""
    split = Split(Regex(LLAMA3), "isolated")
    bytes_only = ByteLevel(add_prefix_space=False, use_regex=False)
    qwen = Split(Regex(LLAMA3.replace("{1,3}", "")), "isolated")
    return {
        "gpt2": byte_level_spec(ByteLevel(add_prefix_space=False)),
        "gpt2-prefix": byte_level_spec(ByteLevel(add_prefix_space=True)),
        "llama3": byte_level_spec(Sequence([split, bytes_only])),
        "qwen2": byte_level_spec(Sequence([qwen, bytes_only])) | {"normalizer": {"type": "NFC"}},
        "llama2": llama2_spec(legacy=True),
        "mistral": llama2_spec(legacy=False),
        "gemma": gemma_spec(),
    }


def files_of(spec: dict[str, Any]) -> TokenizerFiles:
    """Return what a model folder with `spec` as its tokenizer.json says."""
    return TokenizerFiles(
        spec=spec, special_texts=frozenset(SPECIALS), bos="<s>", eos=frozenset({"</s>"}), adds_bos=None
    )


@pytest.fixture(scope="session")
def tokenizers() -> dict[str, Tokenizer]:
    """One tokenizer for each family, and that of the reference model."""
    small = {name: Tokenizer(files_of(spec)) for name, spec in specs().items()}
    return small | {"reference": Tokenizer.from_folder(REFERENCE)}


@pytest.fixture(scope="session")
def compilers(tokenizers: dict[str, Tokenizer]) -> dict[str, GrammarCompiler]:
    """A compiler of grammars for some of the tokenizers."""
    return {
        name: GrammarCompiler(
            tokenizers[name], tokenizers[name].vocab_size + PADDING, tokenizers[name].eos_ids
        )
        for name in ("reference", "llama2")
    }


@pytest.fixture(scope="session")
def references() -> dict[str, Fast]:
    """The same tokenizers as plain `tokenizers` objects."""
    small = {name: Fast.from_str(json.dumps(spec)) for name, spec in specs().items()}
    return small | {"reference": Fast.from_file(str(REFERENCE / "tokenizer.json"))}


@pytest.fixture(
    scope="session",
    params=["reference", "gpt2", "gpt2-prefix", "llama3", "qwen2", "llama2", "mistral", "gemma"],
)
def family(request: pytest.FixtureRequest) -> str:
    """The name of one tokenizer family; a test that asks for it runs once for each."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def tokenizer(family: str, tokenizers: dict[str, Tokenizer]) -> Tokenizer:
    """The tokenizer of `family`."""
    return tokenizers[family]


@pytest.fixture(scope="session")
def reference(family: str, references: dict[str, Fast]) -> Fast:
    """The plain tokenizer of `family`."""
    return references[family]
