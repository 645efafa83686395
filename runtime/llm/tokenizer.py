"""Text to token ids and back, for prompts that are assembled from pieces of different origin.

Three things that a plain `tokenizers.Tokenizer` leaves open are settled here:

* *Control tokens cannot be injected.* Only trusted text may write a special token (see `TextPiece`); in any
  other text it is spelled out in ordinary tokens. A prompt without such text has the ids of the whole text.
* *Continuations.* Text that follows ids which are already fixed gets neither a BOS nor the artificial leading
  space of SentencePiece-style tokenizers (`Start`).
* *Bytes.* `token_bytes` gives what one token adds to a text, on which streaming detokenization is built.
"""

from __future__ import annotations

import hashlib
import json
import re
import string
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import tokenizers

from .pieces import TextPiece
from .tokenizer_files import TokenizerError, TokenizerFiles, read_tokenizer_files
from .tokenizer_spec import WORD_GAP, Spec, cuts_between_words, literal_specials, prefix_rule, without_prefix

__all__ = ["Start", "Tokenizer", "TokenizerError"]


class Start(Enum):
    """What stands before a text that is to be tokenized."""

    PROMPT = "prompt"
    """Nothing: the text begins a prompt."""
    CONTROL = "control"
    """A control token that the prompt itself wrote."""
    CONTINUATION = "continuation"
    """Ordinary tokens whose ids are fixed."""


class Tokenizer:
    """A fast tokenizer with the ids that begin and end its sequences. Immutable; any thread may use it."""

    vocab_size: int
    """One more than the largest token id; the model's logits may have more columns."""
    eos_ids: frozenset[int]
    bos_id: int | None
    bos_prefix: tuple[int, ...]
    """What the post-processor, or the configuration, puts before a prompt; often just the BOS, or nothing."""
    fingerprint: str
    """Hash of all that determines ids; workers with equal fingerprints may exchange token ids."""

    def __init__(self, files: TokenizerFiles) -> None:
        """Build from the contents of a model folder; raises `TokenizerError`."""
        spec = _check(files.spec)
        spec = literal_specials(spec, files.special_texts)
        self._main = _load(spec)
        self._prefix_rule = prefix_rule(spec)
        self._bare = self._main if self._prefix_rule == "none" else _load(without_prefix(spec))
        self._added = self._main.get_added_tokens_decoder()
        self._special = {token.content for token in self._added.values() if token.special}
        self._hard = self._special - set(self._open_ended())
        self._added_pattern = _alternatives(t.content for t in self._added.values() if not t.normalized)
        self.vocab_size = max(self._main.get_vocab(with_added_tokens=True).values()) + 1
        self._resolve_ends(files)
        self.fingerprint = self._hash(spec)
        decoder = json.dumps(spec.get("decoder"))
        self._byte_of_char = _byte_of_char() if '"ByteLevel"' in decoder else None
        self._byte_fallback = '"ByteFallback"' in decoder
        self._bytes: dict[int, bytes] = {}
        self._anchor = self._find_anchor() if self._byte_of_char is None else []
        self._has_gaps = cuts_between_words(spec)

    @classmethod
    def from_folder(cls, path: str | Path) -> Tokenizer:
        """Read the tokenizer of a Hugging Face model folder.

        Raises:
            TokenizerError: a file is missing or malformed, or no file names an end-of-sequence token.
        """
        return cls(read_tokenizer_files(Path(path)))

    def _resolve_ends(self, files: TokenizerFiles) -> None:
        self.bos_id = None if files.bos is None else self._id_of(files.bos)
        self.eos_ids = frozenset(found for end in files.eos if (found := self._id_of(end)) is not None)
        if not self.eos_ids:
            raise TokenizerError(
                "the model folder names no end-of-sequence token; "
                "set eos_token_id in generation_config.json or eos_token in tokenizer_config.json"
            )
        if files.adds_bos is None:
            self.bos_prefix = self._template_prefix()
        else:
            self.bos_prefix = (self.bos_id,) if files.adds_bos and self.bos_id is not None else ()

    def _id_of(self, token: str | int) -> int | None:
        return token if isinstance(token, int) else self._main.token_to_id(token)

    def _template_prefix(self) -> tuple[int, ...]:
        """Return the ids that the post-processor puts before a text."""
        encoding = self._main.encode("a", add_special_tokens=True)
        written = [index for index, is_template in enumerate(encoding.special_tokens_mask) if not is_template]
        return tuple(encoding.ids[: written[0] if written else 0])

    def _hash(self, spec: Spec) -> str:
        parts = [spec, sorted(self.eos_ids), self.bos_prefix]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _open_ended(self) -> Iterator[str]:
        """Yield the special tokens whose recognition depends on the text after them."""
        texts = [token.content for token in self._added.values()]
        for token in self._added.values():
            longer = any(text != token.content and text.startswith(token.content) for text in texts)
            if token.rstrip or token.single_word or longer:
                yield token.content

    # Encoding

    def encode(self, text: str, *, bos: bool) -> list[int]:
        """Tokenize trusted text as the beginning of a prompt.

        With `bos`, the tokenizer's own post-processor says what precedes the text, as in
        `AutoTokenizer(text)`; what it would append is left out, for a prompt is there to be continued.
        """
        prefix = list(self.bos_prefix) if bos else []
        return prefix + self._encode(text, Start.PROMPT)

    def encode_continuation(self, text: str) -> list[int]:
        """Tokenize trusted text that follows fixed ids: no BOS and no artificial leading space."""
        return self._encode(text, Start.CONTINUATION)

    def encode_pieces(self, pieces: Sequence[TextPiece], start: Start) -> list[int]:
        """Tokenize the concatenation of `pieces`, without BOS, spelling out control tokens of untrusted text.

        The ids are those of the whole text unless it holds a control token's text that is not wholly trusted.
        Such an occurrence is cut after its first character, and both parts are tokenized on their own.
        """
        text = "".join(piece.text for piece in pieces)
        ids: list[int] = []
        begin = 0
        for match, genuine in self._controls(text, _trusted_runs(pieces)):
            if genuine:
                continue
            cut = match.start() + 1
            # One character that the vocabulary can only read as the control token is left out.
            ids += self._encode(text[begin : cut if len(match[0]) > 1 else cut - 1], start)
            start = Start.CONTINUATION if ids else start
            begin = cut
        return ids + self._encode(text[begin:], start)

    def _controls(
        self, text: str, trusted: Sequence[tuple[int, int]]
    ) -> Iterator[tuple[re.Match[str], bool]]:
        """Find each text of a control token, and whether it lies wholly within one of the `trusted` runs."""
        position = 0
        while match := self._added_pattern.search(text, position):
            begin, position = match.span()
            if match[0] in self._special:
                genuine = any(low <= begin and position <= high for low, high in trusted)
                position = position if genuine else begin + 1  # a genuine one may begin inside a forgery
                yield match, genuine

    def _encode(self, text: str, start: Start) -> list[int]:
        if not text:
            return []
        if start is Start.PROMPT or self._prefix_rule == "none":
            return _ids(self._main, text)
        if self._prefix_rule == "first":
            return _ids(self._bare, text)
        return self._encode_behind(text, start)

    def _encode_behind(self, text: str, start: Start) -> list[int]:
        """Tokenize where every stretch between added tokens but a continuing one gets a leading space."""
        stretch = 0
        if start is Start.CONTINUATION:
            match = self._added_pattern.search(text)
            stretch = match.start() if match else len(text)
        head = text[:stretch]
        if stretch < len(text) and self._strips_left(text[stretch:]):
            head = head.rstrip()
        ids = _ids(self._bare, head)
        return ids + _ids(self._main, text[stretch:])

    def _strips_left(self, text: str) -> bool:
        return any(token.lstrip and text.startswith(token.content) for token in self._added.values())

    def settled(self, pieces: Sequence[TextPiece]) -> tuple[int, Start]:
        """Find how much of a text no later text can retokenize.

        Returns the number of leading characters whose ids are final when tokenized on their own, and what the
        rest starts behind: the last trusted control token, or the last gap between two words where this
        tokenizer is known never to join words (`cuts_between_words`). `(0, Start.PROMPT)` if there is no
        such place.
        """
        text = "".join(piece.text for piece in pieces)
        control = gap = 0
        for match, genuine in self._controls(text, _trusted_runs(pieces)):
            control = match.end() if genuine and match[0] in self._hard else control
        if self._has_gaps:
            gap = max((match.start() for match in WORD_GAP.finditer(text, control)), default=0)
        if gap > control:
            return gap, Start.CONTINUATION
        return control, Start.CONTROL if control else Start.PROMPT

    @property
    def control_tokens(self) -> frozenset[str]:
        """The texts of the special tokens, which only trusted text writes."""
        return frozenset(self._special)

    @property
    def start_id(self) -> int:
        """The token that stands for "no prompt": BOS, or of a model without one an end of sequence."""
        return min(self.eos_ids) if self.bos_id is None else self.bos_id

    # Decoding

    def decode(self, ids: Sequence[int]) -> str:
        """Turn ids that begin a text into text, leaving special tokens out."""
        return self._main.decode(list(ids), skip_special_tokens=True)

    def decode_continuation(self, ids: Iterable[int]) -> str:
        """Turn ids that follow other text into text: as `decode`, but a leading space is kept.

        Bytes that are no UTF-8, an incomplete last character among them, become U+FFFD.
        """
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        """Return the UTF-8 bytes (maybe part of a character) that `token` adds to a text; none if special."""
        found = self._bytes.get(token)
        if found is None:
            found = self._bytes[token] = self._compute_bytes(token)
        return found

    def spelling(self, token: int) -> bytes:
        """Return `token_bytes`, but of a special token how it is written."""
        added = self._added.get(token)
        return added.content.encode() if added is not None else self.token_bytes(token)

    def _compute_bytes(self, token: int) -> bytes:
        text = self._main.id_to_token(token)
        if text is None or text in self._special:
            return b""
        if token in self._added:
            return self._added[token].content.encode()
        if self._byte_of_char is not None:
            known = all(char in self._byte_of_char for char in text)
            return bytes(self._byte_of_char[char] for char in text) if known else text.encode()
        if self._byte_fallback and (match := re.fullmatch(r"<0x([0-9A-F]{2})>", text)):
            return bytes.fromhex(match[1])
        anchor = self._main.decode(self._anchor)
        return self._main.decode([*self._anchor, token])[len(anchor) :].encode()

    def _find_anchor(self) -> list[int]:
        """Find a token of one plain character; behind it a token decodes as in the middle of a text."""
        for char in string.ascii_letters + string.digits + string.punctuation:
            for text in (char, f"<0x{ord(char):02X}>"):
                token = self._main.token_to_id(text)
                if token is not None and self._main.decode([token]) == char:
                    return [token]
        raise TokenizerError(
            "the vocabulary holds no token of one ASCII character; such a tokenizer is unsupported"
        )


def _ids(tokenizer: tokenizers.Tokenizer, text: str) -> list[int]:
    """The ids of a text. The library's `encode` gives the same, but finds offsets and keeps Python's lock."""
    return tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids


def _check(spec: dict[str, Any]) -> Spec:
    if not isinstance(spec.get("model"), dict) or "vocab" not in spec["model"]:
        raise TokenizerError("tokenizer.json has no model vocabulary; fetch the file again")
    return spec


def _load(spec: Spec) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(spec))
    except Exception as error:  # the library raises bare Exception
        raise TokenizerError(f"tokenizer.json cannot be loaded: {error}; fetch the file again") from error


def _alternatives(texts: Iterable[str]) -> re.Pattern[str]:
    """Match the longest of `texts` at the leftmost place, as the tokenizer finds its added tokens."""
    ordered = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered)) or r"(?!)")


def _trusted_runs(pieces: Sequence[TextPiece]) -> list[tuple[int, int]]:
    """Return the character ranges of the maximal runs of trusted text."""
    runs: list[tuple[int, int]] = []
    position = 0
    for text, trusted in pieces:
        if trusted and runs and runs[-1][1] == position:
            runs[-1] = (runs[-1][0], position + len(text))
        elif trusted and text:
            runs.append((position, position + len(text)))
        position += len(text)
    return runs


def _byte_of_char() -> dict[str, int]:
    """Return the byte that each character of a byte-level vocabulary stands for (GPT-2's table).

    Printable Latin-1 characters stand for themselves; the other bytes, in order, are U+0100 and following.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(0x100 + index): byte for index, byte in enumerate(others)}
