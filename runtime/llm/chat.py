"""Chat templates over messages whose contents are partly unknown.

A conversation is rendered once with marks in place of its contents, and the result is cut at the marks: what
is between them is the template's own text. Only that is trusted to hold control tokens; what a message says
is not, whoever wrote it (see `TextPiece`).
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jinja2

from .errors import RequestError
from .pieces import TextPiece
from .template_engine import TemplateRefusal, compile_template
from .tokenizer_files import read_object, token_text

__all__ = ["ChatMessage", "ChatTemplate", "ChatTemplateError", "Hole", "HolePiece", "Piece"]

# Ends of a probe as a template may leave them: whole, stripped of newlines, stripped of whitespace.
_LEFT_EDGES = ("\n\u2005", "\u2005", "")
_RIGHT_EDGES = ("\u2006\n", "\u2006", "")
_STRIPPED = ("", "\n", None)
_MIDDLE = "\"'<&>\\\n"  # what is probed for being escaped
_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class ChatTemplateError(RequestError):
    """A conversation that a chat template cannot write, or not with contents to be filled in later."""


class Hole(NamedTuple):
    """A part of a message whose text is not known yet."""

    name: str


class ChatMessage(NamedTuple):
    """One turn of a conversation."""

    role: str
    content: tuple[str | Hole, ...]


class HolePiece(NamedTuple):
    """A place in a rendered prompt for the text of the hole `name`."""

    name: str
    strip: Literal["", "left", "right", "both"] = ""
    """At which ends the template strips the text."""
    characters: str | None = None
    """Which characters it strips, as in `str.strip`; None: all whitespace."""


Piece = TextPiece | HolePiece


@dataclass(frozen=True)
class ChatTemplate:
    """A model's chat template with the special tokens that it writes."""

    name: str
    """Where it comes from, for messages."""
    source: str
    tokens: dict[str, Any] = field(default_factory=dict)
    """`bos_token`, `eos_token` and others, as the template's variables."""

    @classmethod
    def from_folder(cls, path: str | Path) -> ChatTemplate | None:
        """Read the template of a Hugging Face model folder; None if it has none.

        Raises:
            TokenizerError: a configuration file is malformed.
        """
        folder = Path(path)
        config = read_object(folder / "special_tokens_map.json") | read_object(
            folder / "tokenizer_config.json"
        )
        file = folder / "chat_template.jinja"
        source = file.read_text("utf-8") if file.is_file() else _default(config.get("chat_template"))
        tokens: dict[str, Any] = {key: text for key in _TOKENS if (text := token_text(config.get(key)))}
        extra = [token_text(token) for token in config.get("additional_special_tokens") or []]
        if extra:
            tokens["additional_special_tokens"] = extra
        return None if source is None else cls(str(folder), source, tokens)

    def to_json(self) -> str:
        """Return the template as JSON text."""
        return json.dumps({"name": self.name, "source": self.source, "tokens": self.tokens})

    @classmethod
    def from_json(cls, text: str) -> ChatTemplate:
        """Read what `to_json` wrote."""
        return cls(**json.loads(text))

    def render(self, messages: Sequence[ChatMessage], add_generation_prompt: bool) -> tuple[Piece, ...]:
        """Write a conversation, with a `HolePiece` for each hole; the pieces come in the order of the prompt.

        With the holes filled in, the text is that of transformers' `apply_chat_template`, provided that a
        hole whose end is stripped is not empty. A prompt begins with the BOS exactly if the template writes
        it.

        Raises:
            ChatTemplateError: the template refuses the conversation (its own words are quoted), is itself
                malformed, or changes a message's content in a way that cannot be written with holes.
        """
        marks = [secrets.token_hex(16) for _ in messages]
        plain = [mark + _MIDDLE + mark for mark in marks]
        edged = [_LEFT_EDGES[0] + mark + _RIGHT_EDGES[0] for mark in plain]
        between = self._split(self._apply(messages, plain, add_generation_prompt), messages, marks)
        probed = self._split(self._apply(messages, edged, add_generation_prompt), messages, marks)
        pieces = _merged(self._fill(between, probed, messages, marks))
        self._verify(messages, add_generation_prompt, pieces)
        return pieces

    def _apply(self, messages: Sequence[ChatMessage], contents: Sequence[str], prompt: bool) -> str:
        turns = [{"role": m.role, "content": text} for m, text in zip(messages, contents, strict=True)]
        try:
            render = compile_template(self.source)
            return render(
                messages=turns, add_generation_prompt=prompt, tools=None, documents=None, **self.tokens
            )
        except TemplateRefusal as error:
            raise ChatTemplateError(f"the chat template of {self.name!r} refuses: {error}") from error
        except (jinja2.TemplateError, TypeError, ValueError, KeyError) as error:
            raise ChatTemplateError(f"the chat template of {self.name!r} fails: {error}") from error

    def _split(self, rendered: str, messages: Sequence[ChatMessage], marks: Sequence[str]) -> list[str]:
        """Split at the marked contents: the template's text, a mark, the template's text, and so on."""
        parts = re.split(f"({'|'.join(marks) or '(?!)'}){re.escape(_MIDDLE)}\\1", rendered)
        for message, mark in zip(messages, marks, strict=True):
            if parts.count(mark) != 1 or rendered.count(mark) != 2:
                raise self._unrepresentable(message.role)
        return parts

    def _fill(
        self, between: list[str], probed: list[str], messages: Sequence[ChatMessage], marks: Sequence[str]
    ) -> list[Piece]:
        """Put the messages' contents in place of their marks, stripped as the probes were."""
        pieces: list[Piece] = [TextPiece(between[0], trusted=True)]
        strips = [_strips(*texts) for texts in zip(between[::2], probed[::2], strict=True)]
        for (before, after), mark, text in zip(pairwise(strips), between[1::2], between[2::2], strict=True):
            message = messages[marks.index(mark)]
            if before is None or after is None:
                raise self._unrepresentable(message.role)
            pieces += _filled(message.content, before[1], after[0])
            pieces.append(TextPiece(text, trusted=True))
        return pieces

    def _unrepresentable(self, role: str) -> ChatTemplateError:
        return ChatTemplateError(
            f"the chat template of {self.name!r} drops, repeats or rewrites the content of a {role!r} "
            "message; write the prompt without the template, or word this message differently"
        )

    def _verify(self, messages: Sequence[ChatMessage], prompt: bool, pieces: Sequence[Piece]) -> None:
        """Check that the pieces, holes filled, are what the template writes for the filled messages."""
        names = {part.name for message in messages for part in message.content if isinstance(part, Hole)}
        values = {name: secrets.token_hex(16) for name in sorted(names)}
        contents = ["".join(p if isinstance(p, str) else values[p.name] for p in m.content) for m in messages]
        written = "".join(p.text if isinstance(p, TextPiece) else values[p.name] for p in pieces)
        if self._apply(messages, contents, prompt) == written:
            return
        raise self._unrepresentable(self._culprit(messages, contents, prompt))

    def _culprit(self, messages: Sequence[ChatMessage], contents: Sequence[str], prompt: bool) -> str:
        """Find the role whose content, rather than a neutral one, the template treats specially."""
        neutral = [secrets.token_hex(16) for _ in messages]
        base = self._apply(messages, neutral, prompt)
        for index, message in enumerate(messages):
            tried = [*neutral[:index], contents[index], *neutral[index + 1 :]]
            if self._apply(messages, tried, prompt) != base.replace(neutral[index], contents[index]):
                return message.role
        return messages[-1].role


def _default(templates: object) -> str | None:
    """Choose among named templates: the one called default."""
    if isinstance(templates, list):
        named = {entry["name"]: entry["template"] for entry in templates}
        templates = named.get("default")
    return templates if isinstance(templates, str) else None


def _strips(between: str, probed: str) -> tuple[str | None, str | None] | None:
    """Read off what was stripped from the edges around a text of the template: before it, and after it.

    "" for nothing, "\\n" for newlines, None for all whitespace; no pair if the text itself changed.
    """
    for right, left in product(range(3), repeat=2):
        if probed == _RIGHT_EDGES[right] + between + _LEFT_EDGES[left]:
            return _STRIPPED[right], _STRIPPED[left]
    return None


def _filled(content: Sequence[str | Hole], left: str | None, right: str | None) -> list[Piece]:
    """Return the pieces of a content that is stripped of these characters at its ends."""
    parts: list[str | HolePiece] = [p if isinstance(p, str) else HolePiece(p.name) for p in content]
    if left != "":
        _strip_end(parts, range(len(parts)), "left", left)
    if right != "":
        _strip_end(parts, range(len(parts) - 1, -1, -1), "right", right)
    return [TextPiece(part) if isinstance(part, str) else part for part in parts]


def _strip_end(
    parts: list[str | HolePiece], inwards: range, side: Literal["left", "right"], characters: str | None
) -> None:
    """Strip constants from one end inwards, up to the first that keeps something or the first hole."""
    for index in inwards:
        part = parts[index]
        if isinstance(part, HolePiece):
            parts[index] = HolePiece(part.name, "both" if part.strip else side, characters)
            return
        parts[index] = kept = part.lstrip(characters) if side == "left" else part.rstrip(characters)
        if kept:
            return


def _merged(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """Join neighbouring texts of equal trust and leave empty ones out."""
    merged: list[Piece] = []
    for piece in pieces:
        last = merged[-1] if merged else None
        if isinstance(piece, TextPiece) and isinstance(last, TextPiece) and last.trusted == piece.trusted:
            merged[-1] = TextPiece(last.text + piece.text, piece.trusted)
        elif not isinstance(piece, TextPiece) or piece.text:
            merged.append(piece)
    return tuple(merged)
