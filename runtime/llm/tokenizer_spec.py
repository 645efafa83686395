"""Reads and edits the JSON of a `tokenizers` tokenizer: added tokens, the artificial prefix space, safe cuts.

Pure functions over the parsed tokenizer.json; they never load a tokenizer.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Iterator
from typing import Any, Literal

__all__ = [
    "WORD_GAP",
    "PrefixRule",
    "Spec",
    "cuts_between_words",
    "literal_specials",
    "prefix_rule",
    "without_prefix",
]

Spec = dict[str, Any]
"""A parsed tokenizer.json, or one component of it."""

PrefixRule = Literal["none", "first", "every"]
"""Which stretches of text between added tokens get an artificial leading space: none, the first, or all."""

WORD_GAP = re.compile(r"(?<=[a-z]) (?=[a-z])")
"""Where `cuts_between_words` allows a text to be cut: before the space between two plain letters."""

_PLAIN_NORMALIZERS = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Prepend"}
_ANCHORS = re.compile(r"\(\?[=<]|\(\?!(?!\\S\))|\\[AGZz]|(?<![\[\\])\^|(?<!\\)\$")


def literal_specials(spec: Spec, named: Iterable[str]) -> Spec:
    """Return `spec` with the special tokens of `named` added and every special token matched literally.

    Only texts that the vocabulary holds are added. Literally (`normalized: false`): a look-alike that only
    normalization would turn into a control token is ordinary text.
    """
    added = [
        token | {"normalized": False} if token["special"] else token for token in spec.get("added_tokens", [])
    ]
    known = {token["content"] for token in added}
    vocab = dict(_vocab_items(spec))
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    new = [{"id": vocab[text], "content": text} | flags for text in set(named) - known if text in vocab]
    added = sorted([*added, *new], key=lambda token: int(token["id"]))
    return spec | {"added_tokens": added, "truncation": None, "padding": None}


def _vocab_items(spec: Spec) -> Iterator[tuple[str, int]]:
    vocab = spec["model"]["vocab"]
    if isinstance(vocab, dict):
        yield from vocab.items()
    else:  # Unigram: a list of (piece, score), the id being the position
        yield from ((piece, index) for index, (piece, _) in enumerate(vocab))


def _components(node: Spec | None) -> list[Spec]:
    """List the leaves of a normalizer or pre-tokenizer, sequences flattened."""
    if node is None:
        return []
    if node["type"] != "Sequence":
        return [node]
    children = node.get("normalizers") or node.get("pretokenizers") or []
    return [leaf for child in children for leaf in _components(child)]


def _leaf_prefix(leaf: Spec) -> PrefixRule:
    if leaf["type"] == "Prepend":
        return "every"
    if leaf["type"] == "Metaspace":
        scheme = leaf.get("prepend_scheme") or ("always" if leaf.get("add_prefix_space", True) else "never")
        rules: dict[str, PrefixRule] = {"always": "every", "first": "first"}
        return rules.get(scheme, "none")
    return "every" if leaf["type"] == "ByteLevel" and leaf.get("add_prefix_space", True) else "none"


def prefix_rule(spec: Spec) -> PrefixRule:
    """Tell which stretches of text this tokenizer puts an artificial space before."""
    leaves = _components(spec.get("normalizer")) + _components(spec.get("pre_tokenizer"))
    rules = {_leaf_prefix(leaf) for leaf in leaves}
    return "every" if "every" in rules else "first" if "first" in rules else "none"


def without_prefix(spec: Spec) -> Spec:
    """Return `spec` with the artificial leading space switched off, for text that continues other text."""
    return spec | {
        "normalizer": _bare(spec.get("normalizer"), "normalizers"),
        "pre_tokenizer": _bare(spec.get("pre_tokenizer"), "pretokenizers"),
    }


def _bare(node: Spec | None, children: str) -> Spec | None:
    if node is None or node["type"] == "Prepend":
        return None
    if node["type"] == "Sequence":
        kept = [bare for child in node[children] if (bare := _bare(child, children)) is not None]
        return node | {children: kept}
    if node["type"] == "Metaspace":
        return {k: v for k, v in node.items() if k != "add_prefix_space"} | {"prepend_scheme": "never"}
    return node | {"add_prefix_space": False} if node["type"] == "ByteLevel" else node


def cuts_between_words(spec: Spec) -> bool:
    """Tell whether cutting a text at every `WORD_GAP` provably leaves its tokens as they are.

    It does for BPE and Unigram vocabularies without a token that reaches from a letter into a space (no merge
    can then cross the cut), behind normalizers and pre-tokenizers that look no further than one character
    past the cut and not back over it. Anything unknown answers False.
    """
    model = spec["model"]
    plain_model = model["type"] in ("BPE", "Unigram") and not any(
        model.get(key) for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
    )
    normal = all(_normalizer_is_local(leaf) for leaf in _components(spec.get("normalizer")))
    local = all(_split_is_local(leaf) for leaf in _components(spec.get("pre_tokenizer")))
    return plain_model and normal and local and _no_token_spans_a_gap(spec)


def _normalizer_is_local(leaf: Spec) -> bool:
    if leaf["type"] == "Replace":
        return bool(leaf["pattern"].get("String") == " ")
    return leaf["type"] in _PLAIN_NORMALIZERS


def _split_is_local(leaf: Spec) -> bool:
    if leaf["type"] == "Split":
        if leaf["pattern"].get("String") == " " and not leaf["invert"]:
            return True  # whichever side the space goes to, no token reaches from a letter into it
        pattern = leaf["pattern"].get("Regex")
        isolated = leaf["behavior"] == "Isolated" or (leaf["behavior"] == "Removed" and leaf["invert"])
        return pattern is not None and isolated and _ANCHORS.search(pattern) is None
    return leaf["type"] in ("ByteLevel", "Metaspace", "Digits")


def _no_token_spans_a_gap(spec: Spec) -> bool:
    vocab = [text for text, _ in _vocab_items(spec)]
    letters = set(string.ascii_lowercase) <= set(vocab)  # an unknown letter could fuse across the cut
    added = "\n".join(token["content"] for token in spec.get("added_tokens", []))
    edges = re.search(r"(^|\n)[a-z]|[a-z](\n|$)|[a-z] [a-z]", added)  # an added token that could touch a gap
    return letters and edges is None and re.search(r"[a-z][ Ġ▁]", "\n".join(vocab)) is None
